# CLIP Notes. `make` alone lists what can be made. Set-up happens by itself, once.
#   PYTHON=python3.12 make book    another Python        VENV=/path make test    another environment
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 3  # one more than the cores of a small machine: a test that waits leaves its core to another
NAME   ?=
TITLE  ?=
PORT   ?= 8000

SHELL  := /bin/bash
BIN    := $(VENV)/bin
READY  := $(VENV)/.clipnotes-ready
# One thread a process: two notebooks that share two cores are faster so, and the last digits do not wander.
QUIET  := OMP_NUM_THREADS=1 GOMP_SPINCOUNT=0
# NAME=01_clip means that chapter, NAME=00_template the template, nothing means all.
FOUND   = $(wildcard chapters/$(NAME).ipynb book/template/$(NAME).ipynb)
PICKED  = $(if $(NAME),$(or $(FOUND),$(error There is no chapters/$(NAME).ipynb)))
RECORD  = $(or $(if $(NAME),$(wildcard recordings/$(NAME)/record.py)),$(error Say which, as in: make record NAME=01_clip))
# A build machine has no terminal: there each test is a line, written at once.
PYTEST := $(QUIET) $(if $(CI),PYTHONUNBUFFERED=1) $(BIN)/python -m pytest $(if $(CI),-v --durations=20)
NBVAL  := --nbval-lax --nbval-current-env --nbval-cell-timeout=300 -n $(JOBS) --dist loadscope

# Run a command while no other make sets the same environment up. The system frees the lock, however its owner ends.
define ALONE
import fcntl, subprocess, sys
lock = open(sys.argv[1], "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("Another make is setting up the environment: waiting for it.", flush=True)
    fcntl.flock(lock, fcntl.LOCK_EX)
sys.exit(subprocess.call(sys.argv[2:]))
endef
export ALONE

.DEFAULT_GOAL := help
.PHONY: help setup here book serve lab test check execute student new record claims bench gpu lint clean

help:  ## this list
	@echo "CLIP Notes. The first run of any of these sets everything up in $(VENV)."
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## install everything into .venv (all other targets do this first)

# An environment knows by absolute paths where it was made, and whose library it runs.
here:
	@library=$$(cat "$(VENV)"/lib/python3*/site-packages/*clipnotes*.pth 2>/dev/null); \
	made=$$(sed -n 's/^command = .* -m venv //p' "$(VENV)/pyvenv.cfg" 2>/dev/null); \
	[[ -z $$library || $$library -ef . ]] && [[ -z $$made || $$made -ef "$(VENV)" ]] || { \
	  echo "$(VENV) was made for $${library:-$$made}: this folder was moved or copied."; \
	  echo "Delete the environment (rm -r $(VENV)), then run the same command again."; exit 1; }

ifdef HELD
$(READY): requirements.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "No environment could be made. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing into $(VENV): three minutes or so, 2 GB, once."
	@set -o pipefail; $(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt -e . \
	  | awk '/^Collecting/ {printf "  %s", $$2; n++; if (n % 6 == 0) print ""; fflush()} \
	         /^Installing collected/ {print "\n  unpacking " n " packages and more: a minute or two"; fflush()}' || { \
	  echo "The install did not finish. Is there a network, and 3 GB of disk? Then run the same command again."; exit 1; }
	@touch $@
else
$(READY): requirements.txt pyproject.toml | here
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed. Name one that you have: PYTHON=python3.12 make $(MAKECMDGOALS)"; exit 1; }
	@mkdir -p $(dir $(VENV).lock)
	@$(PYTHON) -c "$$ALONE" $(VENV).lock $(MAKE) -s HELD=1 $@
endif

book: $(READY)  ## build the book from the stored outputs and say where it is
	@$(BIN)/jupyter-book build . --all -W --keep-going -q || { \
	  echo "The book was not built: see the first WARNING above."; exit 1; }
	@echo "The book is in _build/html. Open file://$(CURDIR)/_build/html/index.html, or run: make serve"

serve: book  ## build the book and serve it on http://127.0.0.1:8000 (PORT=...)
	@echo "http://127.0.0.1:$(PORT)/   (Ctrl+C ends it)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

lab: $(READY)  ## open JupyterLab on the chapters
	@$(BIN)/jupyter lab chapters $(if $(filter 0,$(shell id -u)),--allow-root)

test: $(READY)  ## run every test, then every notebook against its stored outputs
	$(PYTEST) tests -n $(JOBS) --dist loadfile --no-loadscope-reorder
	$(PYTEST) $(NBVAL) chapters book/template book/toyworld.ipynb

check: $(READY)  ## say in a second what a notebook lacks (NAME=01_clip, or all)
	@$(BIN)/python tools/hygiene.py $(PICKED)

execute: $(READY)  ## run the chapters, store their outputs, renew the pages made from them (NAME=01_clip, or all)
	@$(BIN)/python tools/execute.py $(PICKED)
	@$(BIN)/python tools/landing.py
	@$(BIN)/python tools/pages.py

student: $(READY)  ## write copies without solutions to build/student (NAME=01_clip, or all)
	@$(BIN)/python tools/student.py $(PICKED)

new: $(READY)  ## begin a chapter from the template (NAME=02_lseg TITLE='LSeg: ...')
	@$(BIN)/python tools/new.py "$(NAME)" "$(TITLE)"

record: $(READY)  ## record the runs of a chapter that are missing (NAME=09_actionclip)
	$(QUIET) $(BIN)/python $(RECORD)

claims: $(READY)  ## run the live claims under seeds 0 to 4 and record them
	$(QUIET) $(BIN)/python tools/claims.py $(PICKED)
	@$(BIN)/python tools/pages.py

bench: $(READY)  ## time our code against the references, interleaved
	$(BIN)/python tools/bench.py

gpu: $(READY)  ## run every chapter and every model on the GPU of this machine, ten minutes
	$(BIN)/python tools/gpu_check.py

lint: $(READY)  ## check the style of the code with ruff
	@$(BIN)/ruff check .

clean:  ## remove the built book and the caches; the environment and trained weights stay
	rm -rf _build build/student dist .pytest_cache .ruff_cache
