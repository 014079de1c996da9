package sim

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"bennu.example/internal/testenv/mutant"
)

// mutants break the code that keeps the promises of history, one line at a time. The simulation
// must notice each of them: that of one node or, after "nodes: ", that of several.
var mutants = []struct{ name, file, old, new string }{
	{
		"a reader goes live before it has read everything", "channel/server_history_read.go",
		"	for _, it := range items {\n",
		"	if len(items) > 2 {\n		items = items[:2]\n		c.past().reader.GoLive()\n	}\n	for _, it := range items {\n",
	},
	{
		"a parked reader begins at the record after the one that found no room", "channel/server_history_read.go",
		"			c.giveBack(b.Event)\n			p.reader.Unhold()",
		"			c.giveBack(b.Event)\n			p.reader.Advance(it)\n			p.reader.Unhold()",
	},
	{
		"parking forgets the position", "internal/follow/reader.go",
		"	r.position = r.t.cursor // not the item's: the cursor moves after the delivery\n",
		"",
	},
	{
		"a channel that reads also receives records at once", "channel/channel.go",
		"		if !p.reader.Live() {",
		"		if false {",
	},
	{
		"records pass by the handler that intercepts them", "channel/server_history_join.go",
		"	p.pulls = h.asked && c.h.interceptsAny(keep)",
		"	p.pulls = false",
	},
	{
		"the reply has the top as its position", "channel/server_history_join.go",
		"	return historyReply{p.reader.Position(), n, h.why}, nil",
		"	top, _ := p.reader.Top(c.ctx)\n	return historyReply{top, n, h.why}, nil",
	},
	{
		"a client that did not ask has a gap", "channel/server_history_join.go",
		"	if !ok || !h.asked && keep.NoGap {",
		"	if !ok || !h.asked {",
	},
	{
		"records that were trimmed are skipped", "history/memory_read.go",
		"	case prev > after.offset:\n		return Batch{}, ErrTrimmed\n	case c.prev != after.tag:",
		"	case prev == after.offset && c.prev != after.tag:",
	},
	{
		"any epoch will do", "history/memory_read.go",
		"	case after.epoch != top.epoch:",
		"	case false:",
	},
	{
		"records expire by the wall clock", "history/memory.go",
		"	return int64(time.Since(m.start) / time.Millisecond)\n",
		"	return m.cfg.Now().UnixMilli() - m.start.UnixMilli()\n",
	},
	{
		"a client receives old records that follow newer ones", "internal/follow/reader.go",
		"			if next.time < to.reach.UnixMilli() {",
		"			if next.time < to.reach.UnixMilli() && old == i {",
	},
	{
		"a client takes records after those that it dropped", "channel/client_resume.go",
		"	return !h.stalled && !again",
		"	return !again",
	},
	{
		"nodes: a record that is fed twice is delivered twice", "internal/follow/apply.go",
		"		if !t.contradicts(r.Position) {\n			return known\n		}",
		"		if !t.contradicts(r.Position) {\n			d.Item(r)\n			d.Deliver(t)\n			return known\n		}",
	},
	{
		"nodes: a record is delivered although others before it are missing", "internal/follow/apply.go",
		"	if prev.IsZero() {\n		t.repair(feedDelay)\n	} else {\n		t.repair(0)\n	}\n	return gap",
		"	t.deliver(r, d)\n	return applied",
	},
	{
		"nodes: a record follows any record with the right offset", "internal/follow/apply.go",
		"	case !prev.IsZero() && prev.Matches(t.cursor):",
		"	case !prev.IsZero() && prev.Epoch() == t.cursor.Epoch() && prev.Offset() == t.cursor.Offset():",
	},
	{
		"nodes: records that were not fed are not found", "internal/follow/watch.go",
		"		if !reached(t.cursor, top) { // it may be on its way",
		"		if false {",
	},
	{
		"nodes: what was appended before the log's watch began is not looked for", "internal/follow/watch.go",
		"	if err == nil {\n		t.surveyNow()\n	}\n}\n\n// surveyNow",
		"}\n\n// surveyNow",
	},
	{
		"nodes: a loss is not reported", "internal/follow/repair.go",
		"	t.all.hooks.Lost(t)\n	return true",
		"	return true",
	},
	{
		"nodes: an event overtakes the record before it", "internal/follow/hold.go",
		"	if t.held.isEmpty() && (!t.started || reached(t.cursor, after) || size > maxHeldSize) {",
		"	if t.held.isEmpty() {",
	},
	{
		"nodes: an append without an answer has failed", "internal/follow/append.go",
		"		return history.Position{}, unanswered(err)",
		"		return history.Position{}, history.ErrUnavailable",
	},
	{
		"nodes: an append without an answer has succeeded", "internal/follow/append.go",
		"		return history.Position{}, unanswered(err)",
		"		return history.Position{}, nil",
	},
}

// everyRun is how many mutants there are for one that is tried in every run of CI, and not only at
// night.
const everyRun = 3

// TestMutants builds the simulation with the mutants and runs seeds with each until one fails.
func TestMutants(t *testing.T) {
	if os.Getenv("CI") != "true" || raceEnabled {
		t.Skip("SKIPPED: builds the simulation with mutants; set CI=true to run it, without -race")
	}
	var names []string
	var changes []mutant.Change
	for i, m := range mutants {
		if i%everyRun == 0 || os.Getenv("NIGHTLY") == "true" {
			names, changes = append(names, m.name), append(changes, mutant.Change{File: m.file, Old: m.old, New: m.new})
		}
	}
	program := mutant.Build(t, "internal/sim", changes...)
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test := "^TestOneNode$"
			if strings.HasPrefix(name, "nodes: ") {
				test = "^TestCluster$"
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			out, err := program.Command(ctx, i, "-test.run", test, "-seeds", "60", "-test.timeout", "100s").CombinedOutput()
			switch {
			case ctx.Err() != nil:
				t.Fatal("the simulation did not end")
			case err == nil:
				t.Error("the simulation noticed nothing")
			case !strings.Contains(string(out), "seed "):
				t.Errorf("the simulation failed in another way: %v\n%s", err, out)
			default:
				first, _, _ := strings.Cut(string(out[strings.Index(string(out), "seed "):]), "\n")
				t.Log(first)
			}
		})
	}
}
