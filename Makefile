# Each target has its help text behind `##`; `make` without a target lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo image cluster cluster-down e2e test attack kernels test-cluster test-install lint unit first-packets hunt chaos custody applied bench conformance bench-policy bench-watch bench-history bench-map pictures docs version release clean
PY := .venv/bin/python

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: ## install what is missing: Debian packages, virtual environment, Apache Kafka; quick if nothing is missing
	@deploy/local/setup

demo: setup ## show verdicts of real traffic in a small cluster; KEEP=1 runs it until Ctrl-C, CLUSTER=1 on Kubernetes
	@$(if $(CLUSTER),deploy/local/cluster demo,$(PY) deploy/local/demo)

image: ## build the container image of both services into the cache
	@deploy/image/build

cluster: setup ## start a real Kubernetes on this machine; NODES=2, CNI=ptp or bridge, PROXY=nftables or iptables
	@deploy/local/cluster up $(if $(NODES),--nodes $(NODES)) $(if $(CNI),--cni $(CNI)) $(if $(PROXY),--proxy $(PROXY))

e2e: setup ## run Kubernetes' own NetworkPolicy tests on a real cluster, half an hour; PROCS at once; CNI, PROXY as for cluster
	@deploy/local/e2e $(if $(CNI),--cni $(CNI)) $(if $(PROXY),--proxy $(PROXY))

cluster-down: ## remove the cluster and everything that it has made
	@deploy/local/cluster down

test: setup ## check everything: format, lint, types, import contracts, all tests (see tests/__main__.py)
	@deploy/local/collector --in-background
	@deploy/local/binaries --in-background cluster
	@deploy/local/binaries --in-background hubble
	@deploy/local/binaries --in-background helm
	@$(PY) -m tests --lint

test-cluster: setup ## run only the tests on a real cluster of two nodes; CNI, PROXY as for cluster; needs Go
	@$(PY) -m pytest tests/cluster/whole

test-install: setup ## run the commands of README, docs/install.md and docs/upgrade.md on a real cluster, by Helm: install, upgrade, roll back, uninstall; CNI, PROXY as for cluster; needs Go
	@$(PY) -m tests.install

first-packets: setup ## send the first packet of 400 pods at once, with and without the CNI plugin; ROUNDS=10; needs Go
	@KUBEWEIR_ROUNDS=$(or $(ROUNDS),10) $(PY) -m pytest tests/cluster/whole/test_2_first_packets.py

lint: setup ## check only format, lint, types and import contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	deploy/local/mypy
	.venv/bin/lint-imports

unit: setup ## run only the tests that need no kernel program, no Kafka and no API server
	@$(PY) -m pytest -m "not kernel and not kafka and not cluster and not e2e"

attack: setup ## attack the real programs on this machine's kernel, a line for each class; ROUNDS=10, ONLY='errors', ENDS=1 for the programs of WEIR_ENDS=1
	@$(PY) -m tests.attack --rounds $(or $(ROUNDS),10) --only '$(or $(ONLY),*)' $(if $(ENDS),--ends)

kernels: setup ## load all programs, with WEIR_ENDS too, and attack them on older kernels of Debian, emulated, an hour each; LOAD=1 loads only; RELEASES='bullseye bookworm trixie', CPUS=4, ONLY and ENDS as for attack
	@for release in $(or $(RELEASES),bullseye bookworm trixie); do \
	  kernel=$$(deploy/local/emulate --kernel $$release) && \
	  $(PY) -m tests.attack --compile-for "$$kernel" --cpus $(or $(CPUS),4) \
	    $(if $(LOAD),,--small $(if $(ENDS),--ends)) && \
	  deploy/local/emulate --cpus $(or $(CPUS),4) $$release bash -c "$(PY) -m tests.attack --load \
	    $(if $(LOAD),,&& $(PY) -m tests.attack --rounds 1 --small --only '$(or $(ONLY),*)' $(if $(ENDS),--ends))" || exit; done

hunt: setup ## send malformed records (RECORDS=1000000), then search for broken properties (MINUTES=30); ONLY='tests/kernel' searches there alone
	@$(if $(ONLY),,$(PY) -m tests.fuzz --records $(or $(RECORDS),1000000))
	@$(PY) -m tests.hunt --minutes $(or $(MINUTES),30) -- $(ONLY)

chaos: setup ## make faults at random in Kafka, roles, rights and the API, and account for each verdict; MINUTES=20, SEED=1
	@$(PY) -m tests.chaos --minutes $(or $(MINUTES),20) $(if $(SEED),--seed $(SEED))

custody: setup ## prove the log against captured packets while policies, pods, probes and Kafka change; MINUTES=20, SEED=1
	@$(PY) -m tests.custody --minutes $(or $(MINUTES),20) $(if $(SEED),--seed $(SEED))

applied: setup ## prove backtests: predict a change of policies, put it in force, send the same packets again; PREDICTIONS=100000, SEED=1
	@$(PY) -m tests.applied --predictions $(or $(PREDICTIONS),100000) $(if $(SEED),--seed $(SEED))

bench: setup ## measure nanoseconds per packet, verdicts per second to Kafka and to records, seconds to an alert
	@$(PY) -m tests.bench

bench-watch: setup ## measure the watch at 1,000 to 100,000 pods, beside the official client's informer
	@$(PY) -m tests.bench_watch

bench-history: setup ## measure what answers about the past cost: backtests, observe, explain, verify, sql; 1 M and 10 M; JSON=file
	@$(PY) -m tests.bench_history $(if $(JSON),--json $(JSON))

conformance: setup ## run the policy cases with real packets; DIR=folder FAMILY=4|6 (default: both) MODE=wire|run ONLY=glob
	@$(PY) -m tests.conformance --mode $(or $(MODE),wire) $(if $(FAMILY),--family $(FAMILY)) \
		--only '$(or $(ONLY),*)' $(or $(DIR),tests/conformance/cases)

bench-policy: setup ## measure policy from the index to the kernel's maps, at 100, 1,000 and 10,000 pods
	@$(PY) -m tests.bench_policy

bench-map: setup ## measure the page's map of 1,000 workloads and 5,000 connections: first paint, frames a second while dragged
	@$(PY) -m tests.bench_map

pictures: setup ## take pictures of the page in Chromium, light and dark, wide and narrow, into build/pictures, and draw the README's
	@mkdir -p build/pictures
	@KUBEWEIR_PICTURES=$(CURDIR)/build/pictures $(PY) -m pytest -q tests/kafka/test_page.py tests/kafka/test_map.py -k "screens or thousand"
	@ls $(CURDIR)/build/pictures/*.png
	@$(PY) -m tests.readme_pictures

docs: ## generate what comes from the code: docs/settings.md, metrics.md, kafka-acls.md, helm-values.md, deploy/kafka, manual pages, files of the chart
	@$(PY) -m tests.docs.generate

version: setup ## write VERSION=X.Y.Z everywhere that the version stands, and give it the unreleased part of the changelog
	@$(PY) -m deploy.release bump '$(VERSION)'

release: setup ## build a version into dist/ and publish nothing: wheel, images, lists of parts, provenance, digests; KEY=file signs, URL=https://... for krew's manifest, ARCH=amd64,arm64
	@$(PY) -m deploy.release build $(if $(KEY),--key '$(KEY)') $(if $(URL),--url '$(URL)') $(if $(ARCH),--arch '$(ARCH)')

clean: ## remove the virtual environment and the caches of tools; the cache of downloads and builds stays
	test ! -e .venv/kubeweir.making || rm -rf .venv
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
