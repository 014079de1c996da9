package sim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"bennu.example/internal/fakelog"
)

var (
	shrink  = flag.Bool("shrink", false, "run a seed that failed again, and find out what it does not need for that")
	without = flag.String("without", "", "names of what the plan of a seed must not have, separated by commas")
)

// reductions take something out of a plan.
var reductions = []struct {
	name string
	cut  func(p *plan)
}{
	{"restarts", func(p *plan) { p.restarts = false }},
	{"forgets", func(p *plan) { p.forgets = false }},
	{"outages", func(p *plan) { p.outages, p.faults.NoAnswer, p.faults.Refuse = false, 0, 0 }},
	{"losses", func(p *plan) { p.losses = false }},
	{"trims", func(p *plan) { p.trims = false }},
	{"intercepts", func(p *plan) { p.intercepts = false }},
	{"observers", func(p *plan) { p.observed = false }},
	{"padding", func(p *plan) { p.pad = 0 }},
	{"bounds", func(p *plan) { p.keep.Count, p.keep.MaxReplay = 10_000, 10_000 }},
	{"clock jumps", func(p *plan) { p.jump = 0 }},
	{"reach", func(p *plan) { p.reach = 0 }},
	{"feed faults", func(p *plan) {
		p.faults.Lose, p.faults.Gap, p.faults.Repeat, p.faults.Swap = 0, 0, 0, 0
	}},
	{"hidden positions", func(p *plan) {
		p.faults.AppendHidesPrev, p.faults.ReadHidesPrev, p.faults.FeedHidesTag = false, false, false
	}},
	{"all delays and faults of the log", func(p *plan) { p.faults = fakelog.Faults{} }},
}

// reduce applies the flag -without.
func (p *plan) reduce(t *testing.T) {
	if *without == "" {
		return
	}
next:
	for _, name := range strings.Split(*without, ",") {
		for _, r := range reductions {
			if r.name == name {
				r.cut(p)
				continue next
			}
		}
		t.Fatalf("-without: unknown name %q", name)
	}
}

// shrinkSeed takes one thing after the other out of the plan of a seed that failed, as long as the
// seed fails, and logs what is left. Each attempt is a process of its own. A failure that also
// depends on how goroutines are scheduled may not come back, so each attempt runs up to three
// times.
func shrinkSeed(t *testing.T, seed int) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	fails := func(names []string) bool {
		for range 3 {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			run := exec.CommandContext(ctx, program, "-test.run", "^"+t.Name()+"$", "-test.timeout", "100s",
				"-seed", fmt.Sprint(seed), "-without", strings.Join(names, ","))
			err := run.Run()
			cancel()
			if exit := new(exec.ExitError); errors.As(err, &exit) {
				return true
			} else if err != nil {
				t.Fatal(err)
			}
		}
		return false
	}
	removed, kept := removable(fails)
	t.Logf("seed %d fails without %q; needed: %q; run it with -run '^%s$' -seed %d -without '%s'",
		seed, removed, kept, t.Name(), seed, strings.Join(removed, ","))
}

// removable returns the names of the reductions with which something still fails together, and the
// others.
func removable(fails func(removed []string) bool) (removed, kept []string) {
	for _, r := range reductions {
		if try := append(removed[:len(removed):len(removed)], r.name); fails(try) {
			removed = try
		} else {
			kept = append(kept, r.name)
		}
	}
	return removed, kept
}

// TestRemovable checks that what a failure needs is kept, and nothing else.
func TestRemovable(t *testing.T) {
	runs := 0
	removed, kept := removable(func(removed []string) bool {
		runs++
		all := strings.Join(removed, ",")
		return !strings.Contains(all, "losses") && !strings.Contains(all, "padding")
	})
	if strings.Join(kept, ",") != "losses,padding" || len(removed) != len(reductions)-2 || runs != len(reductions) {
		t.Errorf("after %d runs: kept %q, removed %q", runs, kept, removed)
	}
	for _, r := range reductions {
		p := plan{restarts: true, forgets: true, intercepts: true, pad: 1, clocks: clocks{1, 1, true}, cluster: cluster{
			outages: true, losses: true, trims: true, observed: true,
			faults: fakelog.Faults{Lose: 1, Gap: 1, Repeat: 1, Swap: 1, AppendHidesPrev: true, Latency: 1},
		}}
		before := fmt.Sprint(p)
		if r.cut(&p); fmt.Sprint(p) == before {
			t.Errorf("%q takes nothing out", r.name)
		}
	}
}
