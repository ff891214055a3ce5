# Sampan's work bench. `make demo` and `make test` work on a fresh Debian 12 as root; everything else builds on `make setup`.
PYTHON ?= /usr/bin/python3
VENV   := .venv
BIN    := $(VENV)/bin
unexport PYTHONDONTWRITEBYTECODE

PREFIX ?= /usr/local

.PHONY: help setup install uninstall demo test check format bench proto clean
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make setup    install Debian packages that are missing and the Python packages into .venv
setup: $(VENV)/.stamp
$(VENV)/.stamp: pyproject.toml tools/setup tools/debian-packages
	@PYTHON=$(PYTHON) tools/setup $(VENV)

## make install  programs into PREFIX/bin (/usr/local) and systemd units that find them there; DESTDIR as usual
install: setup
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' UNIT_DIRECTORY='$(UNIT_DIRECTORY)' $(BIN)/python tools/install.py

## make uninstall  remove them; what the engine keeps (/var/lib/sampan, /etc/sampan) stays
uninstall: setup
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' UNIT_DIRECTORY='$(UNIT_DIRECTORY)' $(BIN)/python tools/install.py --uninstall

## make demo     a web server in a container, from nothing to gone, with the time of each step
demo: setup
	@$(BIN)/python examples/demo.py

## make test     all tests, in two runs side by side (PYTEST_ARGS for both)
test: setup
	@$(BIN)/python tools/run_tests.py $(PYTEST_ARGS)

## make check    ruff, mypy --strict, import-linter
check: setup
	@$(BIN)/ruff check src tests bench examples tools
	@$(BIN)/ruff format --check --quiet src tests bench examples tools
	@$(BIN)/mypy
	@$(BIN)/lint-imports

## make format   let ruff rewrite what it can
format: setup
	@$(BIN)/ruff check --fix --quiet src tests bench examples tools; $(BIN)/ruff format --quiet src tests bench examples tools

## make bench    figures of docs/performance.md (VS=/path/of/docker.sock for ratios to a Docker Engine)
bench: setup
	@$(BIN)/python bench/run.py $(if $(VS),--vs $(VS))

## make proto    generate the gRPC code from the .proto files
proto: setup
	@$(BIN)/python -m sampan.supervisor.generate
	@$(BIN)/python -m sampan.engine.builder.buildkit.generate

## make clean    remove what make made
clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
