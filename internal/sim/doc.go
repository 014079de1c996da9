// Package sim simulates nodes, clients and their network in virtual time, with faults that a seed
// chooses, and has internal/histcheck judge what the clients received. It has tests only.
//
//	go test ./internal/sim                 # a few seeds; more, and the mutants, if CI=true
//	go test ./internal/sim -seeds 10000    # those of a night; -from 10000 runs the next ones
//	go test ./internal/sim -seed 4711      # one seed again
package sim
