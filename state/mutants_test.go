//go:build !race

package state_test

import (
	"os"
	"slices"
	"testing"

	"bennu.example/internal/testenv/mutant"
)

// fault breaks a guarantee by a change of one line. A test must notice it: one that does soon, and
// does not wait for an event that does not come.
type fault struct{ name, file, old, new, run string }

var windowFaults = []fault{
	{
		"a window is not refilled", "state/window.go",
		"	return m.refill(ctx)\n", "	return nil\n", "TestWindowWrittenWhileRead",
	},
	{
		"a session that dropped changes does not read its window again", "state/window.go",
		"	if dirty {\n", "	if false {\n", "TestWindowsUnderChurn",
	},
	{
		"an item is put behind a window that is not refilled yet", "state/window.go",
		"!w.isFull() && !w.beyond:", "!w.isFull():", "TestWindowHasNoGap",
	},
	{
		"a change while the window is read is lost", "state/window_join.go",
		"	m.cell.join(m) // changes wait from here on\n	found, err := m.load(ctx)\n",
		"	found, err := m.load(ctx)\n	m.cell.join(m)\n", "TestWindowWrittenWhileRead",
	},
	{
		"a row that was evicted is not deleted", "state/window.go",
		"				out, frames = append(out, w.evict(m.keys.Reverse)), append(frames, frame{})\n",
		"				w.evict(m.keys.Reverse)\n",
		"TestWindowsUnderChurn",
	},
	{
		"an older change replaces a newer row", "state/window.go",
		"		if held && it.Rev <= w.rows[at].rev {\n", "		if false {\n", "TestWindowWrittenWhileRead",
	},
}

var listFaults = []fault{
	{
		"a new list key begins like the upper one", "state/list_key.go",
		"string(append(out, listDigits[(a+b)/2]))", "string(append(out, listDigits[b]))", "TestListKeys",
	},
	{
		"a list key ends with any digit", "state/list_key.go",
		"listDigits[1+n%61]", "listDigits[n%61]", "TestListKeys",
	},
	{
		"a batch of insertions at the end loses its order", "state/list.go",
		"			lower = max(lower, op.Key)\n", "", "TestListBatchKeepsOrder",
	},
}

var treeFaults = []fault{
	{
		"recovery leaves out the deletion of a subtree", "state/memory_object.go",
		"		if !r.Touches(e) {\n", "		if e.Under || !r.Touches(e) {\n", "TestTreePath",
	},
	{
		"a client with a part of a tree is not sent the deletion of what is above", "state/session.go",
		"			if m.keys.touches(&s.items[i]) {\n				n++\n",
		"			if m.keys.Has(s.items[i].Key) {\n				n++\n", "TestTreePath",
	},
	{
		"a subtree that was deleted is not remembered", "state/memory_apply.go",
		"	o.stamp(it, r, now)\n	return it.export()\n}\n\n// stamp", "	return it.export()\n}\n\n// stamp",
		"TestMemorySuite/subtrees",
	},
	{
		"the deletion of a subtree can be replaced by a newer event of its key", "state/wire.go",
		"		if !it.Under {\n", "		if true {\n", "TestSubtreeIsNotConflated",
	},
	{
		"a leaf is put over a subtree", "state/tree.go",
		"		op.Under = true\n", "", "TestTree$",
	},
	{
		"a will overwrites the write of another connection", "state/memory_apply.go",
		"op.Own && !owned ||", "op.Own && owned && !owned ||", "TestMemorySuite/own$",
	},
}

// TestMutants runs the tests with the faults.
func TestMutants(t *testing.T) {
	if os.Getenv("CI") != "true" {
		t.Skip("SKIPPED: builds the tests with faults; set CI=true to run it")
	}
	const most = 3 // whether goroutines meet in TestWindowsUnderChurn is chance
	faults := slices.Concat(windowFaults, listFaults, treeFaults)
	changes := make([]mutant.Change, len(faults))
	for i, f := range faults {
		changes[i] = mutant.Change{File: f.file, Old: f.old, New: f.new}
	}
	program := mutant.Build(t, "state", changes...)
	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) { program.Detect(t, i, f.run, most) })
	}
}
