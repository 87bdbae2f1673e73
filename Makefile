# What is done with this repository. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO_BUILD := go build -trimpath -ldflags '-X main.stamp=$(VERSION)'
FUZZTIME ?= 5m
ROUNDS ?= 50
MINUTES ?= 20

.PHONY: help run build generate test check drift lint race web fuzz soak bench testdb vuln clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: ## build and start Millrace with a simulated plant at http://localhost:8080
	@scripts/tools.sh run
	@$(MAKE) --no-print-directory build
	@bin/millrace serve --demo

build: ## build bin/millrace and bin/loadgen
	$(GO_BUILD) -o bin/ ./cmd/millrace ./cmd/loadgen

generate: ## make the templ components, the bundles and the generated pages of docs/ anew
	go tool templ generate -log-level error
	go generate ./...

test: ## everything CI checks; installs what it needs
	@scripts/tools.sh test
	@$(MAKE) --no-print-directory check

check: drift lint web race ## the checks of test, without installing
	scripts/fuzz.sh 2s

drift: ## generated code is what its sources make
	@echo "== generated code"
	$(MAKE) --no-print-directory generate
	@changed=$$(git status --porcelain -- '*_templ.go' web/dist docs/configuration.md); \
	if [ -n "$$changed" ]; then echo "generated files differ from what is committed:"; echo "$$changed"; git diff --stat; exit 1; fi

lint: ## gofmt, vet, go fix, staticcheck
	@echo "== lint"
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	@fixes=$$(go fix -diff $$(go list ./... | grep -v /dashboard/pages) 2>&1); if [ -n "$$fixes" ]; then echo "go fix would change:"; echo "$$fixes"; exit 1; fi
	go tool staticcheck ./...

web: ## types and tests of the TypeScript
	@echo "== web"
	cd web && npm run --silent check && npm run --silent test

race: ## all Go tests with the race detector, in random order
	@echo "== tests"
	go test -race -shuffle=on -timeout 20m ./...

fuzz: ## every fuzz target for FUZZTIME (5m)
	scripts/fuzz.sh $(FUZZTIME)

soak: ## the long runs: ROUNDS (50) kills and reconnects, five minutes without PostgreSQL, a browser for MINUTES (20)
	@scripts/tools.sh test
	MILLRACE_ROUNDS=$(ROUNDS) MILLRACE_KILLS=$(ROUNDS) MILLRACE_RESUMES=1000 MILLRACE_OUTAGE=5m MILLRACE_MINUTES=$(MINUTES) go test -count=1 -p 1 -timeout 3h -v \
		-run 'Kill|Crash|Outage|Stall|Resume|Reconnect|Disconnect|Mosquitto|Load|LivePageRuns' ./ingest/spine ./dashboard/live ./cmd/millrace/e2e

bench: ## the budgets, and what this machine measured
	go run ./scripts/bench

testdb: ## a PostgreSQL shell on the private database of ./data
	@psql -h "$$(realpath data)/postgres/socket" -U millrace -d postgres

vuln: ## known vulnerabilities in what we depend on (needs their database)
	go tool govulncheck ./...

clean: ## remove what was built
	rm -rf bin
