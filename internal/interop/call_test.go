package interop_test

import (
	"os/exec"
	"testing"

	"bennu.example/internal/testenv/require"
)

// TestStateCall tests how the guide's code repeats a push.
func TestStateCall(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), require.Program(t, "node"), "client/call_node.mjs", stateCode(t))
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "6 tests passed\n" {
		t.Errorf("%v: %s", err, out)
	}
}
