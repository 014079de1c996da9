//go:build !race

package state_test

import (
	"os"
	"testing"

	"bennu.example/internal/testenv/mutant"
)

// windowMutants break a guarantee of windows by one line each. A test must notice it.
var windowMutants = []struct{ name, file, old, new, run string }{
	{
		"a window is not refilled", "state/window.go",
		"	return m.refill(ctx)\n", "	return nil\n", "TestWindow$",
	},
	{
		"a session that dropped changes does not read its window again", "state/window.go",
		"	if dirty {\n", "	if false {\n", "TestWindowThatIsBehind",
	},
	{
		"an item is put behind a window that is not refilled yet", "state/window.go",
		"len(w.rows) < w.n && !w.beyond:", "len(w.rows) < w.n:", "TestWindowHasNoGap",
	},
	{
		"a change while the window is read is lost", "state/window_join.go",
		"	m.cell.join(m) // changes wait from here on\n	found, err := m.load(ctx)\n",
		"	found, err := m.load(ctx)\n	m.cell.join(m)\n", "TestSimulation/seed_[0-4],",
	},
	{
		"a row that was evicted is not deleted", "state/window.go",
		"				out, frames = append(out, w.evict()), append(frames, frame{})\n", "				w.evict()\n", "TestWindow$",
	},
}

// TestWindowMutants runs the tests with each mutant.
func TestWindowMutants(t *testing.T) {
	if os.Getenv("CI") != "true" {
		t.Skip("SKIPPED: builds tests for each mutant; set CI=true to run it")
	}
	for _, m := range windowMutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel() // some of the tests wait for a minute for what does not come
			mutant.Detect(t, "./state", m.run, 1, m.file, m.old, m.new)
		})
	}
}
