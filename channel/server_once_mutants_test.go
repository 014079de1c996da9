//go:build !race

package channel_test

import (
	"os"
	"testing"

	"bennu.example/internal/testenv/mutant"
)

// TestOnceMutants breaks a guarantee of Once by one line each. A test must notice it.
func TestOnceMutants(t *testing.T) {
	if os.Getenv("NIGHTLY") != "true" {
		t.Skip("SKIPPED: builds tests for each mutant; set NIGHTLY=true to run it")
	}
	mutants := []struct{ name, file, old, new string }{
		{
			"the key has no client", "channel/server_once_wire.go",
			"appendField(appendField(room[:0], subject), client)", "appendField(room[:0], subject)",
		},
		{
			"the key has no subject", "channel/server_once_wire.go",
			"appendField(appendField(room[:0], subject), client)", "appendField(room[:0], client)",
		},
		{
			"replies of middleware are recorded", "channel/define.go",
			"	h.run = h.dispatch\n	if h.once != nil {\n		h.once.check(h)\n		h.run = h.once.wrap(h.run)\n	}\n" +
				"	for i := len(h.wrap) - 1; i >= 0; i-- {\n		h.run = h.wrap[i](h.run)\n	}\n",
			"	h.run = h.dispatch\n" +
				"	for i := len(h.wrap) - 1; i >= 0; i-- {\n		h.run = h.wrap[i](h.run)\n	}\n" +
				"	if h.once != nil {\n		h.once.check(h)\n		h.run = h.once.wrap(h.run)\n	}\n",
		},
		{
			"a panic does not release", "channel/server_once.go",
			"			o.release(ctx, m.c, run)\n		}\n	}()\n", "		}\n	}()\n",
		},
		{
			"the end of the channel does not release", "channel/server_once_run.go",
			"			o.release(context.Background(), c, run)\n", "",
		},
		{
			"the reply is sent before it is recorded", "channel/channel.go",
			"			r = c.h.once.answer(c, ref.ref, r)\n", "			defer c.h.once.answer(c, ref.ref, r)\n",
		},
		{
			"the lease is not renewed", "channel/server_once_run.go",
			"			o.renewLater(ctx, c, in, run)\n		}\n", "		}\n",
		},
		{
			"the window is not renewed", "internal/oncetable/table.go",
			"		m.keep(id, now.Add(id.window))\n		return", "		return",
		},
	}
	changes := make([]mutant.Change, len(mutants))
	for i, m := range mutants {
		changes[i] = mutant.Change{File: m.file, Old: m.old, New: m.new}
	}
	program := mutant.Build(t, "channel", changes...)
	for i, m := range mutants {
		t.Run(m.name, func(t *testing.T) { program.Detect(t, i, "TestOnce[^M]", 1) })
	}
}
