# Thin names for commands that can as well be typed; .ci/run is the truth.

.PHONY: fmt lint test race fuzz soak torture bench conformance ci nightly

fmt:
	gofmt -w $$(git ls-files '*.go')

lint:
	bash .ci/run lint

test:
	go test work

race:
	go test -race work

fuzz:
	bash .ci/run fuzz

soak:
	bash .ci/run soak

torture:
	bash .ci/run torture

bench:
	go test -run '^$$' -bench . -benchmem work

conformance:
	go run ./internal/conformance -addr 127.0.0.1:4100

ci:
	bash .ci/run

nightly:
	NIGHTLY=true bash .ci/run
