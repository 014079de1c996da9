package interop_test

import "testing"

// TestWills runs the code of docs/presence.md for last wills.
func TestWills(t *testing.T) {
	t.Parallel()
	each(t, "wills", runNode)
}
