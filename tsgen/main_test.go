package tsgen

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"bennu.example/channel"
)

func TestRun(t *testing.T) {
	t.Parallel()
	routes := func(event string) channel.Routes {
		join := func(*struct{}, context.Context, *channel.Channel, struct{}) (int, error) { return 0, nil }
		return channel.Routes{"room": channel.Define(join, channel.Sends[struct{}](channel.Event[int](event)))}
	}
	out := filepath.Join(t.TempDir(), "new", "types")
	for _, step := range []struct {
		args  []string
		event string
		fails bool
	}{
		{[]string{"-o", out, "-check"}, "a", true},
		{[]string{"-o", out}, "a", false},
		{[]string{"-o", out, "-check"}, "a", false},
		{[]string{"-o", out, "-check"}, "b", true},
		{[]string{"-o", out}, "b", false},
		{[]string{"-check", "-o", out}, "b", false},
		{[]string{"-o", filepath.Join(out+".mjs", "no", "directory")}, "a", true},
		{[]string{"-unknown"}, "a", true},
		{[]string{"-h"}, "a", true},
		{[]string{"-o", out, "rest"}, "a", true},
	} {
		if err := run(step.args, io.Discard, routes(step.event)); (err != nil) != step.fails {
			t.Errorf("%v: error %v", step.args, err)
		}
	}
	for _, name := range []string{out + ".mjs", out + ".d.mts"} {
		if info, err := os.Stat(name); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
