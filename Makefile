# `make demo`, `make unified` and `make test` need Python 3.11 or later and nothing else: each sets up .venv.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# PyTorch is for the tests of conversion; EXTRAS=test leaves it, and them, out.
EXTRAS ?= test,torch

.PHONY: demo unified test test-long test-all test-fast mutations lint clean

demo: $(VENV)/photos
	$(RUN) -m unitok_jax train --config=configs/photos.py --workdir=demo
	$(RUN) -m unitok_jax reconstruct --checkpoint=demo --data=photos --output=demo/photos
	cp demo/photos/comparison.png demo.png
	$(RUN) -m unitok_jax tokenize --checkpoint=demo --data=photos --output=demo/codes
	$(RUN) -m unitok_jax train --config=configs/generate_photos.py --workdir=demo/generator
	$(RUN) -m unitok_jax generate --checkpoint=demo/generator --tokenizer=demo --scale=2 --temperature=0.5 \
	    --prompts=docs/start/prompts.txt --output=demo/drawn
	cp demo/drawn/sheet.png drawn.png
	@echo "look at demo.png: original | reconstruction | error; and at drawn.png, drawn by texts"

# A model that reads and draws: the same command continues, and what is examined stays.
unified: $(VENV)/photos
	$(RUN) -m unitok_jax train --config=configs/unified_tokenizer.py --workdir=unified/tokenizer
	$(RUN) -m unitok_jax tokenize --checkpoint=unified/tokenizer --data=shapes:train --limit=20000 \
	    --output=unified/codes/train
	$(RUN) -m unitok_jax tokenize --checkpoint=unified/tokenizer --data=shapes:held_out --limit=1024 \
	    --output=unified/codes/held_out
	$(RUN) -m unitok_jax tokenize --checkpoint=unified/tokenizer --data=shapes:edits --limit=10000 \
	    --output=unified/codes/edits
	$(RUN) -m unitok_jax train --config=configs/unified.py --workdir=unified/model
	test -f unified/scores/sheet.png || $(RUN) -m unitok_jax evaluate --checkpoint=unified/model \
	    --tokenizer=unified/tokenizer --shapes=128 --scales=1,2 \
	    --temperature=0.3 --output=unified/scores
	cp unified/scores/sheet.png unified.png
	@echo "look at unified.png: questions with answers, texts with drawings, edits; what is wrong is red"

# Two at a time, as they hold gigabytes and start processes of their own; long files begin first.
PYTEST = $(RUN) -m pytest -n auto --maxprocesses=2 --dist=loadfile --no-loadscope-reorder

test: $(VENV)/test lint
	$(PYTEST) -m "not long and not thorough"

# Whole runs, kills, jobs of several processes, pages: what must hold too before a change lands.
test-long: $(VENV)/test
	$(PYTEST) -m "long and not thorough"

# Also for other meshes, forms and mishaps; before a release, or after a change to what they repeat.
test-all: $(VENV)/test lint
	$(PYTEST)

# What needs no compiled model and no process of its own: minutes instead of an hour.
test-fast: $(VENV)/test lint
	$(PYTEST) -m "not slow"

# Faults put into a copy of the code, one at a time: which of them does no test notice? Takes long.
mutations: $(VENV)/test
	$(RUN) -m tests.mutations

lint: $(VENV)/test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/photos: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[photos]'
	touch $@

$(VENV)/test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) demo demo.png drawn.png unified unified.png
