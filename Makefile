# Two commands on a fresh machine: `make demo` and `make test`. PYTHON may name any of 3.10 to 3.13.
PYTHON ?= python3
VENV ?= .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMP := $(VENV)/.installed
TRITON := .triton
SENTENCE := .sentence-transformers

.PHONY: demo test lint clean

demo: $(STAMP)
	rm -rf demo
	mkdir demo
	cd demo && $(BIN)/prune2deploy init ../examples/topics/model --data ../examples/topics/data
	cd demo && $(BIN)/prune2deploy run --speedup 2 --name topics

test: $(STAMP) $(TRITON)/.installed $(SENTENCE)/.installed
	$(BIN)/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch's CPU wheel, where its index can be reached: the default wheel on Linux brings gigabytes of CUDA
	$(BIN)/python -m pip install --quiet --no-deps --retries 1 --constraint constraints.txt torch \
		--extra-index-url https://download.pytorch.org/whl/cpu
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,openvino,triton,dev]'
	touch $(STAMP)

# a real Triton server to test against, in an environment of its own; without it those tests are skipped
$(TRITON)/.installed: tests/tritonserver.py constraints.txt
	$(PYTHON) tests/tritonserver.py $(TRITON)
	touch $@

# the real sentence-transformers with its ONNX backend, which needs an older transformers; likewise
$(SENTENCE)/.installed: tests/sentence_library.py
	$(PYTHON) tests/sentence_library.py $(SENTENCE)
	touch $@

clean:
	rm -rf $(VENV) $(TRITON) $(SENTENCE) demo
