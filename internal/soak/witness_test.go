package main

import (
	"strings"
	"testing"
)

// TestWitness holds that a witness finds each thing that may go wrong, and nothing where all is well.
func TestWitness(t *testing.T) {
	t.Parallel()
	say := func(life, n, seq uint64) func(*witness) {
		return func(w *witness) { w.hears(said{From: "bob", Life: life, N: n, Seq: seq}) }
	}
	own := func(n uint64) func(*witness) {
		return func(w *witness) { w.hears(said{From: "ann", Life: w.life, N: n, Seq: n}) }
	}
	begin := func(w *witness) { w.begins(w.book.clock.Add(10)) }
	end := (*witness).ends
	drop := (*witness).drops
	lossy := func(w *witness) { w.lossy = true }
	ticked := func(n uint64) func(*witness) { return func(w *witness) { w.ticked(tick{n}) } }
	answered := func(event string, n uint64) func(*witness) {
		return func(w *witness) { w.answered(event, answer{w.life, n}) }
	}
	lives := func(w *witness) {
		for i := range uint64(maxLives) {
			w.hears(said{From: "bob", Life: 20 + i, N: 1, Seq: 20 + i})
		}
	}
	missed := func(n int) func(*witness) {
		return func(w *witness) {
			if got := w.book.counted("missed"); got != n {
				w.fault("%d missed, not %d", got, n)
			}
		}
	}
	type steps = []func(*witness)
	for name, c := range map[string]struct {
		steps steps
		fault string
	}{
		"all is well":              {steps{begin, say(15, 1, 1), say(15, 2, 2), say(19, 1, 3), end, begin, say(19, 8, 20)}, ""},
		"an old life ends late":    {steps{begin, say(15, 1, 1), say(19, 1, 4), say(15, 2, 2), say(15, 3, 3)}, ""},
		"seq may skip":             {steps{begin, say(15, 1, 1), say(15, 2, 4)}, ""}, // it was never sent
		"outside":                  {steps{say(15, 1, 1)}, "outside"},
		"after the end":            {steps{begin, end, say(15, 1, 1)}, "outside"},
		"again":                    {steps{begin, say(15, 1, 1), say(15, 1, 1)}, "after number 1"},
		"again in the next":        {steps{begin, say(15, 1, 1), end, begin, say(15, 1, 1)}, "after number 1"},
		"again in a later life":    {steps{begin, say(15, 1, 1), say(19, 1, 1)}, "in life 15"},
		"again in an earlier life": {steps{begin, say(19, 1, 2), say(15, 1, 2)}, "in life 19"},
		"not in order":             {steps{begin, say(15, 1, 1), say(15, 3, 3), say(15, 2, 2)}, "right after number 1"},
		"a gap":                    {steps{begin, say(15, 1, 1), say(15, 3, 3)}, "right after number 1"},
		"a gap, told":              {steps{begin, drop, say(15, 1, 1), say(15, 3, 3)}, ""},
		"a gap, lossy":             {steps{lossy, begin, say(15, 1, 1), say(15, 3, 3)}, ""},
		"gaps, counted":            {steps{lossy, begin, say(15, 1, 1), say(15, 4, 4), say(19, 3, 9), ticked(2), missed(2 + 2 + 1)}, ""},
		"gaps of no interval":      {steps{lossy, begin, say(15, 1, 1), end, begin, say(15, 4, 4), missed(0)}, ""},
		"many lives":               {steps{begin, lives, say(90, 1, 90), say(91, 1, 91)}, ""},
		"a life long ago":          {steps{begin, lives, say(15, 1, 1)}, "long ago"},
		"again, lossy":             {steps{lossy, begin, say(15, 1, 1), say(15, 1, 1)}, "after number 1"},
		"a gap, told too early":    {steps{begin, drop, end, begin, say(15, 1, 1), say(15, 3, 3)}, "right after number 1"},
		"the beginning is missing": {steps{begin, say(15, 2, 2)}, "as the first"},
		"it began before":          {steps{begin, end, begin, say(11, 7, 7)}, ""},
		"ticks":                    {steps{begin, ticked(1), ticked(2), answered("tick", 2), end, begin, ticked(1)}, ""},
		"a tick is missing":        {steps{begin, ticked(1), ticked(3)}, "after tick 1"},
		"the first tick missing":   {steps{begin, ticked(2)}, "after tick 0"},
		"ticks come late":          {steps{begin, ticked(1), answered("tick", 2)}, "when 1 was heard"},
		"an answer":                {steps{begin, own(1), own(2), answered("say", 2)}, ""},
		"an answer too early":      {steps{begin, own(1), answered("say", 2)}, "when 1 was heard"},
		"an answer while leaving":  {steps{begin, own(1), func(w *witness) { w.leaves(true) }, answered("say", 2)}, ""},
		"an answer of another":     {steps{begin, func(w *witness) { w.answered("say", answer{w.life + 1, 0}) }}, "answered for life 11"},
		"joined as before":         {steps{begin, func(w *witness) { w.begins(1) }}, "joined as 1"},
	} {
		w := newWitness(newBook(), "ann", "room:1", false)
		for _, step := range c.steps {
			step(w)
		}
		got := strings.Join(w.book.faults(), "\n")
		if c.fault == "" && got != "" || !strings.Contains(got, c.fault) {
			t.Errorf("%s: found %q, want %q", name, got, c.fault)
		}
	}
}
