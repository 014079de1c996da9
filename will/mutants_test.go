//go:build !race

package will_test

import (
	"os"
	"testing"

	"bennu.example/internal/testenv/mutant"
)

// mutants break a guarantee of wills by one line each. A test must notice it: one of this package,
// or of package socket.
var mutants = []struct{ name, file, old, new, pkg, run string }{
	{
		"a newer connection does not wait for a will that runs", "will/store.go",
		"				busy = max(busy, time.Duration(w.Held-now)*time.Millisecond)\n", "",
		"will", "TestMemory/random",
	},
	{
		"a will runs after a newer join", "will/store.go",
		"		if c.Newest != n.ID && c.isNewer(n) {", "		if c.Newest == \"\" {",
		"will", "TestMemory/random",
	},
	{
		"a will is claimed twice", "will/store.go",
		"w.Due != 0 && w.Due <= now && w.Held <= now {", "w.Due != 0 && w.Due <= now {",
		"will", "TestMemory/two_nodes_claim",
	},
	{
		"an older connection sets a will", "will/store.go",
		"		if c.Newest != w.Connection.ID {\n			failed = ErrFenced", "		if false {\n			failed = ErrFenced",
		"will", "TestMemory/an_older_connection",
	},
	{
		"the order of the connections is that of the arrivals", "will/store.go",
		"n.Order == 0 || c.Order == 0 || n.Order >= c.Order", "true",
		"will", "TestMemory/the_client_orders",
	},
	{
		"the wills of a node are lost with its lease", "will/store.go",
		"		if len(ofNode) == 0 {\n", "		if true {\n",
		"will", "TestMemory/the_lease_of_a_node_ends",
	},
	{
		"the wills of a node are due although it has a lease again", "will/store.go",
		"		ends[l.Node] = l.End.UnixMilli()\n	}\n",
		"		ends[l.Node] = l.End.UnixMilli()\n	}\n	for _, l := range leases {\n		ends[l.Node] = l.End.UnixMilli()\n	}\n",
		"will", "TestExpireOfNodeThatReturns",
	},
	{
		"a join is answered before the older wills are fenced", "socket/wills.go",
		"	if !s.hasClientID {\n", "	if true {\n",
		"socket", "TestWillIsDeleted|TestJoinWaitsForWill",
	},
	{
		"a will outlives its channel", "socket/wills.go",
		"	lived := errors.Is(cause, channel.ErrClosed) && !errors.Is(cause, channel.ErrStop)", "	lived := true",
		"socket", "TestWillIsDeleted",
	},
	{
		"a node that lost its lease does not store its wills again", "socket/wills_run.go",
		"	w.again = w.again || !kept && !w.leased.IsZero()\n", "	_ = kept\n",
		"socket", "TestWillOfDeadNode",
	},
}

// TestMutants runs the tests with each mutant, until one fails. Whether goroutines meet in the test
// of a race is chance.
func TestMutants(t *testing.T) {
	if os.Getenv("CI") != "true" {
		t.Skip("SKIPPED: builds the tests with mutants; set CI=true to run it")
	}
	const most = 20
	for _, pkg := range []string{"will", "socket"} {
		var changes []mutant.Change
		for _, m := range mutants {
			if m.pkg == pkg {
				changes = append(changes, mutant.Change{File: m.file, Old: m.old, New: m.new})
			}
		}
		program := mutant.Build(t, pkg, changes...)
		i := 0
		for _, m := range mutants {
			if m.pkg == pkg {
				t.Run(m.name, func(t *testing.T) { program.Detect(t, i, m.run, most) })
				i++
			}
		}
	}
}
