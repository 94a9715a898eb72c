# make demo: builds plumb and shows a verdict on a model with a fault in it. make test: builds and runs every test.
# Both install what is missing with apt (sudo where needed); on another system they say what to install and go on.
BUILD := build/release
PLUMB := $(BUILD)/plumb
MODEL := tests/models/tiny-stories-q4_k.gguf
PYTHON ?= python3
LLAMA ?= ../llama.cpp

.PHONY: demo test test-peers build deps clean
demo: build
	@echo; echo "== The model against itself"; echo
	$(PLUMB) compare $(MODEL) $(MODEL) -p "One sunny day"
	@echo; echo "== The model against a run of itself whose queries are rotated the wrong way in layer 0"; echo
	$(PLUMB) compare $(MODEL) $(MODEL) -p "One sunny day" --decode 24 --inject rope.pairing@layer.0.attn.q_rope --html demo-report.html; test $$? -eq 1
	@echo; echo "The same as a page for a browser: demo-report.html"

build: deps
	@cmake --preset release > $(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@echo "Building (three to ten minutes on two processors the first time)…"
	@cmake --build --preset release --target plumb > $(BUILD).log 2>&1 || { tail -40 $(BUILD).log; exit 1; }

test: deps
	cmake --preset release
	cmake --build --preset release
	ctest --preset release
	@python3 tools/count_tests.py $(BUILD)

deps:
	@mkdir -p build
	@sh tools/install_dependencies.sh

clean:
	rm -rf build demo-report.html

# What needs torch, transformers and pytest (PYTHON: an interpreter that has them) and a llama.cpp that is built with shared libraries (LLAMA).
test-peers: build
	PYTHONPATH=python $(PYTHON) -m pytest -q python/tests
	sh tools/test_llama_capture.sh $(LLAMA) $(PLUMB) $(MODEL)
