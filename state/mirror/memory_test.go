//go:build !race

package mirror

import "testing"

// TestItemMemory holds the memory of a mirrored item with a key of 12 bytes and a value of 20.
func TestItemMemory(t *testing.T) { // not parallel: it measures the heap
	const n, most = 10_000, 130
	m := newMirror(t, "map")
	got := heapOf(func() *Mirror {
		fill(m, n)
		return m
	}) / n
	if t.Logf("%.0f bytes per item", got); got > most {
		t.Errorf("an item occupies %.0f bytes, more than %d", got, most)
	}
}
