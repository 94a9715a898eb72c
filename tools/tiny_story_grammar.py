"""A seeded grammar of simple children's stories, the training text of the tiny test model.

Everything here is written for this project, so text made from it may be published freely.

    python3 tools/tiny_story_grammar.py [COUNT] [SEED]     prints COUNT stories (default 5, seed 1)

A template is plain text with two kinds of marks: `[a|b|c]` is one of the alternatives (they do
not nest), and `{slot}` is a word of the story's cast. Facts are tied to each other over the whole
story: a name has a pronoun, an animal has a home, a food and a skill, a lost thing is found where
that skill finds it, so that a model has something to remember. Choices are not even: the hero's
adjective makes one plot and one of three styles (which alternative is the usual one) more likely,
the hero's kind makes one friend, place and thing more likely, and so on. So the most likely text
differs from hero to hero.
"""

import math
import random
import re
import sys

GIRLS = "Lily Anna Mia Sara Rose Ella Nora Lucy Amy Molly Ruby Emma Jane Kate".split()
BOYS = "Tom Ben Max Sam Leo Tim Jack Finn Oscar Hugo Peter Noah Dan Paul".split()
SHE_ANIMALS = "Bella Coco Ginger Poppy Daisy Fluffy Luna Honey".split()
HE_ANIMALS = "Pip Rusty Bruno Teddy Shadow Biscuit Rocky Buddy".split()

# kind: (home, food, what it can do, what it did, where that finds a lost thing)
ANIMALS = {
    "cat": ("in the barn", "fish", "climb high", "climbed high", "on the roof"),
    "dog": ("on the farm", "bones", "run fast", "ran down the road", "at the end of the road"),
    "fox": ("in the forest", "berries", "smell everything", "smelled the ground",
            "under the leaves"),
    "rabbit": ("in the meadow", "carrots", "hop over logs", "hopped over a log",
               "behind the log"),
    "bear": ("in a cave", "honey", "lift heavy stones", "lifted a heavy stone",
             "under the stone"),
    "bird": ("in a tall tree", "seeds", "fly over the trees", "flew over the trees",
             "in a nest"),
    "duck": ("by the pond", "bread", "swim across the water", "swam across the water",
             "on the other side"),
    "frog": ("by the pond", "flies", "jump far", "jumped far", "between the reeds"),
    "mouse": ("under the kitchen floor", "cheese", "crawl into small holes",
              "crawled into a small hole", "inside the hole"),
    "owl": ("in the old oak", "bugs", "see in the dark", "looked into the dark cave",
            "in the cave"),
    "squirrel": ("in the old oak", "nuts", "climb to the top", "climbed to the top",
                 "on the top branch"),
    "turtle": ("by the river", "leaves", "dive deep", "dived deep",
               "at the bottom of the river"),
    "pig": ("on the farm", "apples", "dig in the mud", "dug in the mud", "deep in the mud"),
    "horse": ("on the farm", "hay", "jump over the fence", "jumped over the fence",
              "behind the fence"),
    "goat": ("on the hill", "grass", "climb the rocks", "climbed the rocks",
             "between two rocks"),
    "monkey": ("in the jungle", "bananas", "swing from tree to tree",
               "swung from tree to tree", "in the tallest tree"),
    "penguin": ("on the ice", "fish", "dive into cold water", "dived into the cold water",
                "under the ice"),
    "hedgehog": ("under the hedge", "pears", "roll down the hill", "rolled down the hill",
                 "at the foot of the hill"),
    "elephant": ("in the jungle", "peanuts", "reach high branches",
                 "reached up with a long nose", "on a high branch"),
    "mole": ("under the hill", "roots", "dig a tunnel", "dug a long tunnel",
             "under the ground"),
}

COLOURS = "red blue green yellow white brown pink golden".split()
THINGS = ("ball kite book hat drum boat doll key bell shell lamp box blanket scarf basket map cup "
          "ring train spoon").split()

# place: what is seen there
PLACES = {
    "park": ["children on the swings", "a big fountain", "a man with balloons"],
    "forest": ["tall trees", "brown mushrooms", "a deer with big eyes"],
    "beach": ["white shells", "big waves", "a crab in the sand"],
    "market": ["fresh bread and fruit", "a woman with flowers", "baskets full of eggs"],
    "river": ["silver fish", "a wooden bridge", "smooth stones"],
    "garden": ["bees and roses", "ripe tomatoes", "a snail on a leaf"],
    "hill": ["the whole village", "white sheep", "clouds like soft wool"],
    "lake": ["a small boat", "two white swans", "blue water"],
    "meadow": ["yellow butterflies", "tall grass", "cows in the sun"],
    "village": ["little houses", "an old clock", "a baker at his door"],
    "castle": ["high walls", "a sleeping king", "long flags"],
    "library": ["a thousand books", "a quiet cat", "pictures of ships"],
}

# weather: (what it was like, what one did because of it)
WEATHERS = {
    "sunny": ("The sun was warm and bright", "so everyone played outside"),
    "rainy": ("Rain fell on the roof", "so the grass was wet"),
    "windy": ("The wind was strong", "so the leaves danced in the air"),
    "cold": ("There was ice on the pond", "so everyone wore a coat"),
    "snowy": ("Snow covered the ground", "so the whole world was white"),
    "foggy": ("The fog was thick", "so nobody could see far"),
}

# what one wants to learn: (how it goes wrong, how it goes right)
SKILLS = {
    "swim": ("sank like a stone", "swam like a fish"),
    "dance": ("stepped on a foot", "danced all evening"),
    "sing": ("sang like an old door", "sang a sweet song"),
    "paint": ("spilled the paint on the floor", "painted a fine picture"),
    "ride a bike": ("fell into a bush", "rode around the village"),
    "bake bread": ("burned the bread black", "baked warm, soft bread"),
    "skate": ("slipped on the ice", "skated in big circles"),
    "read": ("mixed up the letters", "read a whole book"),
    "play the drum": ("broke a stick", "played for the whole village"),
    "whistle": ("blew only air", "whistled like a bird"),
}

# a noise at night: what it was
NOISES = {
    "Tap, tap, tap": "a branch at the window",
    "Drip, drip, drip": "water that fell into a cup",
    "Boom, boom": "thunder far away",
    "Creak, creak": "the old door in the wind",
    "Scratch, scratch": "a mouse who wanted cheese",
    "Hoo, hoo": "an owl on the roof",
    "Crunch, crunch": "a goat who ate the grass",
    "Buzz, buzz": "a bee in the lamp",
}

# a child's question: the answer
QUESTIONS = {
    "Why is the grass wet": "it rained in the night",
    "Why is the moon so bright": "it takes its light from the sun",
    "Why do birds sing": "they want to find their friends",
    "Why do leaves fall": "the tree must rest in winter",
    "Why is the bread warm": "it came out of the oven",
    "Why do we sleep": "our eyes need rest",
    "Why is the ice so cold": "it is made of frozen water",
    "Why do cats have soft feet": "they like to walk quietly",
    "Why is the sky dark": "the sun went down",
    "Why do bees like roses": "roses are sweet",
    "Why do boats float": "wood is lighter than water",
    "Why does the rooster shout": "it is time to get up",
}

# a dish: (what it needs, where that comes from)
DISHES = {
    "apple pie": ("apples", "the tree in the garden"),
    "carrot soup": ("carrots", "the field behind the house"),
    "egg salad": ("eggs", "the hens on the farm"),
    "berry cake": ("berries", "the bushes in the forest"),
    "pear jam": ("pears", "the market in the village"),
    "nut bread": ("nuts", "the old oak on the hill"),
    "lemon tea": ("lemons", "the shop on the corner"),
}

# a seed: (what grew from it, who came to it)
SEEDS = {
    "round": ("a tall sunflower", "the bees"),
    "black": ("a sweet melon", "all the children"),
    "tiny": ("a red poppy", "a blue butterfly"),
    "flat": ("a big pumpkin", "the whole family"),
    "hard": ("a young oak", "a busy squirrel"),
}

OPENINGS = [
    "Once upon a time there was a {adj} {k} named {n}. {live}",
    "Once upon a time, {home}, there lived a {adj} {k} named {n}. ",
    "Once there was a {k} called {n}. {He} was very {adj}. ",
    "There was a {adj} {k} who lived {home}. {His} name was {n}. ",
    "{n} was a {adj} {k}. {live}",
    "Long ago a {adj} {k} lived {home}. Everyone called {him} {n}. ",
    "A {k} named {n} lived {home}. {He} was {adj} and {adj2}. ",
    "This is the story of {n}, a {adj} {k}. {live}",
    "It was a {weather} [day|morning]. {Wlike}, {wso}. The {adj} {k} {n} "
    "[got up early|looked outside]. ",
    "One {weather} [day|morning|evening], {n} the {adj} {k} [sat at home|woke up|was thinking]. ",
    "The {adj} {k} lived {home}. [All {his} friends|The others] called {him} {n}. ",
]

LOST = """{n} had a {t}. [It was {his} favourite thing|{He} loved it very much|{He} took it \
everywhere|It was a gift from {his} {fam}]. [One day|One {weather} morning|Then, one evening,] the \
{tn} was gone. {n} looked [under the bed|behind the door|in every room|under the table], but it \
was not there. {n} [was very sad|began to cry|did not know what to do]. {f} the {fk} [came \
by|heard {him}|saw {him}]. "[Why are you sad|What is wrong|What happened], {n}?" asked {f}. "[I \
lost my {t}|My {t} is gone|I cannot find my {t}]," said {n}. "[Do not worry|Do not cry|Wait here]. \
I can {fcan}," said {f}. So {f} {fdid}. [Soon|At last|After a while] {fhe} found the {t} {fspot}! \
"Here is your {tn}," said {f}. {n} [hugged {fhim}|laughed with joy|jumped up and down]. "[Thank \
you|You are a true friend|You are so kind], {f}!" {end}"""

HUNGRY = """[One day|One {weather} day|In the morning] {n} went to the {p}. {He} saw {see}. Then \
{he} heard a [small|sad|soft] voice. It was a {fk} named {f}. "[I am so hungry|I have not eaten \
today|My belly is empty]," said {f}. "I [have no|looked for|cannot find any] {ffood}." {n} had a \
bag with {num} [pieces|handfuls] of {ffood}. {He} [thought for a moment|smiled|sat down] and gave \
[it all|half of it|some] to {f}. {f} ate the {ffood} and [smiled|was happy again|felt better]. \
"[Thank you|You are so kind], {n}," {fhe} said. The next day {n} fell into a deep hole. \
"[Help|Help me|Please help]!" {he} cried. {f} heard {him}. {fHe} {fdid} and [brought a long \
rope|called the others] to [pull|get] {n} out. {end}"""

SHARE = """{n} and {f} the {fk} found a {t} [at the {p}|near the {p}]. "[It is mine|I saw it \
first|Give it to me]!" said {n}. "No, [it is mine|I saw it first]!" said {f}. They [pulled and \
pulled|shouted at each other|both held the {tn}]. Then the {tn} [fell into the mud|broke in \
two|flew into a tree]. They were [sorry|quiet|ashamed]. {Fam} came and said, "[If you share, you \
both can play|Two friends are better than one {tn}|You must be kind to each other]." So {n} and \
{f} [cleaned|fixed|got] the {tn} together. [First {n} played, and then {f} played|They took turns \
all day|They played until the sun went down]. {end}"""

STORM = """{n} and {f} the {fk} were playing [at|near] the {p}. [Suddenly|Then|After a while] the \
sky [became dark|turned grey]. The wind [blew|cried] and rain began to fall. "[I am afraid|I am \
cold|I want to go home]," said {f}. "[Come with me|Take my hand|Follow me]," said {n}. "I know a \
[dry|safe] place." They [ran|hurried] to [an old house|a big tree|a little cave|a barn] and \
waited. {n} told {f} a story about a {fk2} who could {can2}. {f} [laughed|listened|forgot the \
rain]. [Soon|At last] the storm was over. A rainbow stood over the {p}. It was red, yellow, green \
and blue. "[How beautiful|Look at that|I am not afraid now]!" said {f}. {end}"""

COOK = """{n} wanted to make {dish}. "I need {num} {ing}," {he} said. {He} went to {src} and found \
only {low} {ing}. {f} the {fk} [was there too|came along]. "[What are you doing|What do you \
need|Can I help you]?" asked {f}. "I want to make {dish}, but I have only {low} {ing}," said {n}. \
"I [have|can give you] {rest} {ing}," said {f}. Now they had {num} {ing}. They \
[washed|cut|counted] the {ing} and worked [all morning|for an hour|side by side]. [Soon|Then] the \
{dish} was ready. It smelled [wonderful|good|sweet]. {n} gave the first piece to {f}. "[This is \
the best {dish} in the world|I like it very much|It is so good]," said {f}. {end}"""

LEARN = """{n} wanted to {skill}. {He} tried [once|on Monday|in the morning], but {he} {bad}. {f} \
the {fk} laughed. "[You cannot {skill}|It is too hard for you|You will never {skill}]," said {f}. \
{n} was [sad|angry|ashamed], but {he} did not stop. {He} asked {his} {fam} for help. "[Go \
slowly|Try again|Do it every day]," said {his} {fam}. So {n} [tried again|practised] every day. \
[After {num} days|After {num} weeks|One {weather} day] {he} {good}. [Everyone was \
surprised|Everyone clapped|{f} could not believe it]. "[I was wrong|I am sorry]," said {f}. "Will \
you teach me?" "[Of course|Yes, I will|Yes]," said {n}. {end}"""

NOISE = """[One night|Late in the evening|That night] {n} was in bed. It was very dark. "{noise}." \
{n} [opened {his} eyes|sat up|held {his} breath]. "[Who is there|What is that]?" {he} whispered. \
"{noise}." [Maybe it was a monster|Maybe it was a ghost|It came closer]. {n} was [afraid|so \
scared], and {he} called {his} {fam}. {Fam} came with a lamp. They [looked around|walked to the \
noise|looked outside]. It was only {source}! {n} [began to laugh|smiled|was not afraid any more]. \
"[The dark is not so bad|Small things can sound big at night|Now you know]," said {fam2}. [{n} \
closed {his} eyes and slept|Soon {n} was asleep|Then they drank warm milk]. {end}"""

WHY = """{n} [always asked questions|wanted to know everything|had many questions]. {He} walked \
[to|around] the {p} with {his} {fam}. "{q1}?" asked {n}. "Because {a1}," said {his} {fam}. {n} \
[thought about it|nodded|looked around]. "{q2}?" {he} asked. "Because {a2}," [was the answer|said \
{his} {fam}]. Then they saw {see}. {f} the {fk} was there, too. "{q3}?" asked {f}. {n} knew it! \
"Because {a3}," said {n}. {His} {fam} [was proud|smiled|laughed]. "[You are very clever|Now you \
can be a teacher|You learn so fast]," said {his} {fam}. {end}"""

RACE = """{n} was [proud|loud]. "[I am the fastest {k}|Nobody is faster than me|I always win]," \
{he} said. {f} the {fk} was slow, but {fhe} was [patient|brave|calm]. "[Let us race|I will race \
you] to the {p}," said {f}. [Everyone laughed|All the animals came to look]. One, two, three, go! \
{n} ran [like the wind|far ahead]. Then {he} [saw {see} and stopped|sat under a tree and fell \
asleep|stopped to eat]. {f} [walked on and on|did not stop|went step by step]. When {n} looked up, \
{f} was [already there|at the {p}|at the end]. "[You won|How did you do that]!" said {n}. "[I \
never stopped|Slow and steady is good too|I just went on]," said {f}. {end}"""

VISIT = """{Fam} gave {n} a {colour} {bin} full of [bread|cookies|flowers|cherries]. "[Take this \
to Grandma|Bring this to Grandma]," said {fam2}. "[Do not stop on the way|Be careful|Come home \
before dark]." {n} walked [past the {p}|through the {p}] and saw {see}. There {he} met {f} the \
{fk}. "Where are you going?" asked {f}. "[To Grandma|To my Grandma, she is ill|I am going to see \
Grandma]," said {n}. "May I come with you?" "Yes, [come with me|it is a long way|we can sing \
together]." They [sang a song|talked about {ffood}|counted {num} birds] on the way. Grandma was \
[very happy|so glad] to see them. She [made tea|gave them {ffood}|told them an old story]. \
{end}"""

BIRTHDAY = """It was the birthday of {f} the {fk}. {fHe} was {num} years old. {n} wanted to give \
{fhim} [something special|a good gift|a surprise]. {He} had no money, so {he} [made|found|painted] \
a {t}. {He} [put it in a box|wrapped it in paper|hid it behind {his} back]. "[Happy birthday|This \
is for you|Close your eyes], {f}!" said {n}. {f} opened {feyes}. "A {t}! [How pretty|I always \
wanted a {tn}|It is perfect]!" [All the friends|Everyone] came to the party. They ate {ffood} and \
[danced|sang|played games] until [night|the moon came out|they were tired]. "[This is my best \
birthday|You are the best friend]," said {f}. {end}"""

GARDEN = """{n} found a {seed} seed [near the {p}|in {his} pocket|on the road]. "[What will it \
be|What is inside]?" {he} asked. {His} {fam} said, "[Put it in the ground and wait|Give it water \
and wait|You must plant it and see]." {n} [planted it|dug a hole for it] behind the house. {He} \
gave it water every day. [After 2 days|On the first day] nothing happened. {n} was [not \
happy|tired of waiting]. "[It is asleep|Give it time|Good things are slow]," said {f} the {fk}. \
After {num} days there was a green leaf. It grew and grew, because [the sun was warm|the earth was \
good|{n} took care of it]. [In summer|At last] it was {plant}. {Who} came to [see|visit] it. \
{end}"""

STAR = """At night {n} looked at the sky. {He} saw a [bright|little|falling] star. "[I wish I had \
a friend|I wish I could fly|I wish I had a {t}]," {he} said. {He} closed {his} eyes and [fell \
asleep|had a dream]. In the dream {he} [flew over the {p}|stood on the moon|was as small as a \
{fk2}]. {He} met {f}, a {fk} who could {fcan}. They [played|danced|laughed] together and ate \
{ffood}. When the sun came up, {n} [woke up|opened {his} eyes]. [It was only a dream|There was \
nobody|The star was gone]. But at the door stood a {fk}. "[Hello|Good morning], I am {f}," said \
the {fk}. "Do you want to play?" {n} was [so surprised|full of joy]. {end}"""

JOURNEY = """{n} wanted to see the {p}. {He} packed {ffood}, a {t} and a coat. [On the way|Soon|At \
the bridge] {he} met {f} the {fk}. {f} was [lost|alone|tired]. "[Come with me to the {p}|Let us go \
together|Do you want to come to the {p}]," said {n}. They [walked for {num} hours|crossed a \
river|went up and down]. Then they [came to a high wall|lost the way|saw a big rock on the road]. \
"[What now|How can we go on]?" asked {n}. "I can {fcan}," said {f}. {fHe} {fdid} and [found a new \
way|showed the way]. [At last|In the evening] they were at the {p}. There they saw {see}. "[It was \
a long way, but it was worth it|This is wonderful|I will never forget this day]," said {n}. \
{end}"""

PLOTS = [LOST, HUNGRY, SHARE, STORM, COOK, LEARN, NOISE, WHY, RACE, VISIT, BIRTHDAY, GARDEN, STAR,
         JOURNEY]

ENDINGS = [
    "From that day on {n} and {f} were [best friends|always together].",
    "{n} and {f} [went home|walked home] together. [They were tired but happy|It was a good day].",
    "{n} learned that [it is good to help|friends are important|we must not give up].",
    "And {n} was [happy|never alone again].",
    "In the evening {n} told {his} {fam} everything. \"[Well done|I am proud of you],\" said {his} "
    "{fam}.",
    "{n} smiled, because [{f} was {his} friend|the day was so good|everything was good again].",
    "They [lived happily|laughed and played] for a long time. The end.",
    "That night {n} [slept well|dreamed of {f}]. The end.",
]

ENDINGS_ALONE = [ending for ending in ENDINGS if "{f}" not in ending and "They" not in ending]

ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
ADJECTIVES = ("little small brave kind clever shy happy funny lazy young curious gentle poor "
              "strong").split()


class Chooser:
    """Random choices with a running sum of their information, in nats."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.nats = 0.0

    def pick(self, options, key, share=0.7):
        """Returns options[key % n] with the chance share, else one of the others."""
        options = list(options)
        others = len(options) - 1
        if others == 0:
            return options[0]
        usual = key % len(options)
        if self.random.random() < share:
            self.nats -= math.log(share)
            return options[usual]
        self.nats -= math.log((1 - share) / others)
        return options[(usual + 1 + self.random.randrange(others)) % len(options)]

    def expand(self, template, style):
        """Replaces every `[a|b|c]` by one alternative; style says which is the usual one."""
        return ALTERNATIVES.sub(lambda m: self.pick(m.group(1).split("|"), style), template)


def capital(text):
    """Returns the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def pronouns(female, prefix):
    """Returns the slots he/him/his for one person, each also with a capital."""
    words = ("she", "her", "her") if female else ("he", "him", "his")
    slots = {}
    for slot, word in zip(("he", "him", "his"), words):
        slots[prefix + slot] = word
        slots[prefix + capital(slot)] = capital(word)
    return slots


class Cast:
    """The slots of one story: who is in it, with what, where and when."""

    def __init__(self, chooser):
        self.chooser = chooser
        self.slots = {}
        self.costs = []  # (names of slots, nats): what a text that uses one of them tells
        self.used = set()
        self.choose_hero()
        self.choose_friend()
        self.choose_rest()

    def __getitem__(self, key):
        self.used.add(key)
        return self.slots[key]

    def pick(self, names, options, key, share):
        """Picks like Chooser.pick, but puts the information on the account of some slots."""
        before = self.chooser.nats
        chosen = self.chooser.pick(options, key, share)
        self.costs.append((names.split(), self.chooser.nats - before))
        self.chooser.nats = before
        return chosen

    def used_nats(self):
        """Returns the information of the slots that were used."""
        return sum(nats for names, nats in self.costs if self.used.intersection(names))

    def choose_hero(self):
        """Chooses the hero: a child or an animal, with a name, a home and an adjective."""
        kinds = list(ANIMALS)
        female = self.pick("n", [True, False], 0, 0.55)
        if self.pick("k", ["child", "animal"], 0, 0.4) == "child":
            kind, self.hero = ("girl", 20) if female else ("boy", 21)
            name = self.pick("n", GIRLS if female else BOYS, 0, 0.2)
            home = self.pick("home live", ["in a small village", "near the sea", "in a big city",
                                           "at the edge of a forest"], self.hero, 0.5)
            likes = self.pick("live", ["to play outside", "to draw", "animals", "old stories"],
                              self.hero, 0.5)
        else:
            kind = self.pick("k", kinds, 0, 0.08)
            self.hero = kinds.index(kind)
            name = self.pick("n", SHE_ANIMALS if female else HE_ANIMALS, self.hero, 0.4)
            home, food = ANIMALS[kind][:2]
            likes = "to eat " + food
        adjective = self.pick("adj", ADJECTIVES, self.hero, 0.2)
        self.adjective = ADJECTIVES.index(adjective)
        self.style = self.adjective % 3
        self.slots.update(pronouns(female, ""))
        verb = self.pick("live", ["lived " + home, "liked " + likes], self.style, 0.7)
        self.slots.update(
            n=name, k=kind, home=home, adj=adjective, live=f"{self.slots['He']} {verb}. ",
            adj2=self.pick("adj2", [a for a in ADJECTIVES if a != adjective], self.adjective, 0.4))

    def choose_friend(self):
        """Chooses the friend, an animal, and a third animal that is only spoken of."""
        female = self.pick("f", [True, False], self.hero, 0.6)
        others = [k for k in ANIMALS if k != self.slots["k"]]
        kind = self.pick("fk ffood fcan", others, 7 * self.hero + 1, 0.4)
        self.friend = list(ANIMALS).index(kind)
        names = [n for n in (SHE_ANIMALS if female else HE_ANIMALS) if n != self.slots["n"]]
        third = self.pick("fk2 can2", [k for k in others if k != kind], self.friend, 0.4)
        _, food, can, did, spot = ANIMALS[kind]
        self.slots.update(pronouns(female, "f"))
        self.slots.update(
            f=self.pick("f", names, self.hero, 0.4), fk=kind, ffood=food, fcan=can, fdid=did,
            fspot=spot, feyes="her eyes" if female else "his eyes", fk2=third,
            can2=ANIMALS[third][2])

    def choose_rest(self):
        """Chooses things, places, the weather, numbers and all the rest."""
        hero, slots = self.hero, self.slots
        thing = self.pick("t tn", THINGS, hero, 0.35)
        colour = self.pick("t colour", COLOURS, THINGS.index(thing), 0.5)
        place = self.pick("p see", PLACES, 5 * hero, 0.35)
        weather = self.pick("weather Wlike", WEATHERS, hero, 0.4)
        family = self.pick("fam Fam", ["mother", "father", "sister", "brother"], hero, 0.5)
        number = self.pick("num", range(4, 10), hero, 0.4)
        low = self.pick("low", range(2, number - 1), number, 0.5)
        skill = self.pick("skill", SKILLS, hero, 0.4)
        noise = self.pick("noise", NOISES, hero, 0.4)
        dish = self.pick("dish", DISHES, hero, 0.4)
        seed = self.pick("seed", SEEDS, hero, 0.4)
        slots.update(
            t=f"{colour} {thing}", tn=thing, colour=colour, p=place,
            see=self.pick("see", PLACES[place], 0, 0.6), weather=weather,
            Wlike=WEATHERS[weather][0], wso=WEATHERS[weather][1], fam=family,
            fam2=f"{slots['his']} {family}", Fam=f"{slots['His']} {family}", num=number, low=low,
            rest=number - low, skill=skill, bad=SKILLS[skill][0], good=SKILLS[skill][1],
            noise=noise, source=NOISES[noise], dish=dish, ing=DISHES[dish][0],
            src=DISHES[dish][1], seed=seed, plant=SEEDS[seed][0], Who=capital(SEEDS[seed][1]),
            bin=self.pick("bin", ["basket", "box", "bag"], hero, 0.6))
        questions = list(QUESTIONS)
        for i in range(1, 4):
            question = self.pick(f"q{i}", questions, hero + i, 0.4)
            questions.remove(question)
            slots.update({f"q{i}": question, f"a{i}": QUESTIONS[question]})


def story(chooser):
    """Returns one story; chooser.nats grows by about its information."""
    cast = Cast(chooser)
    opening = chooser.pick(OPENINGS, 0, 0.2)
    plot = chooser.pick(PLOTS, cast.adjective, 0.5)
    ending = chooser.pick(ENDINGS if "{f}" in plot else ENDINGS_ALONE, cast.hero, 0.4)
    text = chooser.expand(opening + plot.replace("{end}", ending), cast.style)
    text = text.format_map(cast)
    chooser.nats += cast.used_nats()
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def main():
    """Prints some stories and counts of their words."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    chooser = Chooser(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    stories = [story(chooser) for _ in range(count)]
    print("\n\n".join(stories))
    words = re.findall(r"[A-Za-z']+", " ".join(stories))
    print(f"\n{len(words) / count:.0f} words a story, {len(set(words))} different words, "
          f"{chooser.nats / count:.1f} nats a story")


if __name__ == "__main__":
    main()
