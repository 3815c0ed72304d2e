# make fig2                          draw Fig. 2 (environment in .venv/, demo profile)
# make fig2 PROFILE=laptop ARGS="run.device=cuda"
# make fig2 PYTHON=python            use the environment you are in
# make fig4 LAUNCHER=slurm           missing tables as jobs; WAIT=0 returns when they are sent (LAUNCHER=local: processes here)

PROFILE ?= demo
MODEL ?= vgg16
ARGS ?=
LAUNCHER ?=
WAIT ?=
BY = $(if $(LAUNCHER),hydra/launcher=$(LAUNCHER)) $(if $(filter 0,$(WAIT)),run.wait=false)
VENV := .venv
ifdef PYTHON
READY :=
else
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
endif
FIGURES := $(filter-out all,$(patsubst conf/figure/%.yaml,%,$(wildcard conf/figure/*.yaml)))

.PHONY: help figures report status verify test test-slurm test-browser lint env $(FIGURES)
.DEFAULT_GOAL := help

help: ## list the targets
	@echo "make FIGURE   draw a figure into outputs/figures: $(FIGURES)"
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)/make \1 \t\2/' | expand -t 14
	@echo "options: PROFILE=demo|laptop|paper  LAUNCHER=local|slurm  WAIT=0  PYTHON=python (no .venv)  ARGS=\"data.limit=4 run.device=cuda\""

$(FIGURES): $(READY)
	$(PYTHON) -m pipeline figure=$@ profile=$(PROFILE) $(BY) $(ARGS)

figures: $(READY) ## draw all of them
	$(PYTHON) -m pipeline figure=all profile=$(PROFILE) $(BY) $(ARGS)

report: $(READY) ## one page of all figures, claims and maps, outputs/report/index.html; it draws what is missing
	$(PYTHON) -m pipeline report profile=$(PROFILE) $(BY) $(ARGS)

status: $(READY) ## what is there of the tables of a figure, and what is running: FIGURE=fig4
	$(PYTHON) -m pipeline status figure=$(or $(FIGURE),all) profile=$(PROFILE) $(ARGS)

verify: $(READY) ## check every rule on a network: MODEL=resnet34, or MODEL=own ARGS="model.call=package.module:function"
	$(PYTHON) -m pipeline experiment=verify $(if $(wildcard conf/model/$(MODEL).yaml),model=$(MODEL),model=vgg16 model.name=$(MODEL)) $(ARGS)

test: $(READY) ## run the tests, one at a time on each core (ARGS="-n 0 -k walk": in one process, some of them)
	$(PYTHON) -m pytest -q -n auto --dist worksteal $(ARGS)

test-slurm: $(READY) ## the tests on a real SLURM of one node, which scripts/slurm_cluster.sh starts (and installs, as root)
	scripts/slurm_cluster.sh install || true
	PIPELINE_TEST_SLURM=1 $(PYTHON) -m pytest -q tests/test_slurm.py $(ARGS)

test-browser: $(READY) ## the report's page in a real browser, which scripts/chromium.sh installs (as root)
	scripts/chromium.sh install || true
	$(PYTHON) -m pytest -q tests/test_report_browser.py $(ARGS)

lint: $(READY) ## check format, style and types
	$(PYTHON) -m ruff format --check . && $(PYTHON) -m ruff check . && $(PYTHON) -m pyright --pythonpath "$$($(PYTHON) -c 'import sys; print(sys.executable)')"

env: $(READY) ## make the environment in .venv/

$(VENV)/.ready: pyproject.toml
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: python3.12 -m venv $(VENV) && $(VENV)/bin/pip install -e .[test,cluster], then make fig2 PYTHON=$(VENV)/bin/python")'
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[test,cluster]'
	touch $@
