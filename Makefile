# Each target does its own set-up: a fresh machine needs git, make and Python 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: help install demo core paper test lint clean
help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(BIN)/.installed  ## virtual environment in .venv with the locked versions

$(BIN)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11: make PYTHON=python3.11 install" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: install  ## real cells of this repository: training, tables, figures, page, in minutes and offline
	$(RUN) dvc repro
	@echo "tables, figures and page: results/demo/ (open results/demo/report.html)"

core: install  ## published images, core subsets; WBC_MIRROR=DIR takes them from a folder
	$(RUN) dvc repro pipelines/core/dvc.yaml
	@echo "tables, figures and page: results/core/ (open results/core/report.html)"

paper: install  ## the PDFs of results/core, paper and supplement; needs TeX and latexmk
	$(RUN) wbc-shift paper -p core
	@command -v latexmk >/dev/null || { echo "error: latexmk is missing: apt-get install latexmk texlive-latex-recommended texlive-fonts-recommended texlive-science" >&2; exit 1; }
	latexmk -cd -pdf -interaction=nonstopmode -halt-on-error paper/supplement.tex paper/main.tex

# A test that hangs ends its process and is named, with every stack; benchmarks may take longer.
test: install  ## the whole suite; with WBC_MIRROR=DIR also the tests on real images
	OMP_NUM_THREADS=1 WBC_THREADS=1 $(RUN) pytest --numprocesses logical --dist loadfile --no-loadscope-reorder \
		-o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true

lint: install  ## style, and pipeline files that agree with params.yaml
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) wbc-shift pipeline --check

clean:  ## remove the environment and everything that can be made again
	rm -rf .venv datasets/cache results/demo results/phantom
