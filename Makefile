# The entry points of lavant; `make help` lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test lint fuzz bench setup web fmt clean

# The port of `make run`, and how long `make fuzz` spends on a target.
PORT ?= 7777
SECONDS := 60

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Build, start a node with a sample stream, print the URL (PORT=7777); Ctrl-C ends it
	@scripts/setup.sh run
	@scripts/web.sh
	@PORT=$(PORT) scripts/run.sh

test: ## Run every test, of the workspace and of the page
	@scripts/setup.sh test
	@scripts/web.sh
	@scripts/test.sh

lint: ## Check format, lints, dependencies, spelling, tidiness and the page
	@scripts/setup.sh lint
	@scripts/web.sh
	@scripts/lint.sh

fuzz: ## Fuzz each target for a while (SECONDS=60)
	@scripts/setup.sh fuzz
	@scripts/fuzz.sh $(SECONDS)

bench: ## Measure a node beside nginx, ffmpeg and cosmosd
	@scripts/setup.sh bench
	@scripts/web.sh
	@scripts/bench.sh

setup: ## Install what all of the above need and this machine lacks
	@scripts/setup.sh all

web: ## Build the page into web/dist, when its sources changed
	@scripts/setup.sh run
	@scripts/web.sh

fmt: ## Format the code
	cargo fmt --all
	[ ! -e fuzz/Cargo.toml ] || cargo fmt --manifest-path fuzz/Cargo.toml
	[ ! -d web/node_modules ] || npm --prefix web run format

clean: ## Remove what was built (not .lavant, not the tools in target/tools)
	rm -rf web/dist web/node_modules fuzz/target
	[ ! -d target ] || find target -mindepth 1 -maxdepth 1 ! -name tools -exec rm -rf {} +
