package boltengine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"bennu.example/engine/boltengine"
	"bennu.example/history"
	"bennu.example/state"
)

// applyForever writes the objects a to d from several goroutines. Each write puts the two items of
// its writer. It prints the object, the position, the writer and the value of each write that was
// acknowledged.
func applyForever(cfg boltengine.Config, writers, from int) error {
	e, err := boltengine.New(cfg)
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	in := state.Inbox{Change: func(state.Change) {}, Uncertain: func(error) {}}
	go func() { ran <- e.State().Run(context.Background(), in) }()
	lines := make(chan string)
	for w := range writers {
		go func() {
			for i := from; ; i++ {
				object := string(rune('a' + (w+i)%4))
				value := []byte(fmt.Sprint(i))
				a, err := e.State().Apply(context.Background(), object, []state.Op{
					{Key: fmt.Sprint("x", w), Value: value}, {Key: fmt.Sprint("y", w), Value: value},
				}, state.Tx{ID: fmt.Sprint(w, " ", i)})
				if err != nil {
					lines <- "error: " + err.Error()
					return
				}
				lines <- fmt.Sprint(object, " ", a.Position, " ", w, " ", i)
			}
		}()
	}
	return printUntilEnd(e, lines, ran)
}

// A process that writes objects is killed again and again. Every acknowledged write is there
// afterwards, each write is there as a whole, and revisions are in order.
func TestKillState(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	const writers = 32
	cfg := config(t)
	type place struct {
		object string
		writer int
	}
	acked := map[place]int{}
	tops := map[string]history.Position{}
	total := 0
	for round := range rounds {
		c := start(t, "-objects", "-path", cfg.Path, "-writers", fmt.Sprint(writers), "-from", fmt.Sprint(round<<20))
		if line := c.line(); line != "ready" {
			t.Fatalf("the process began with %q", line)
		}
		read := func(line string) {
			var p place
			var text string
			var i int
			if _, err := fmt.Sscan(line, &p.object, &text, &p.writer, &i); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			at, err := history.ParsePosition(text)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			acked[p] = i
			if top, ok := tops[p.object]; ok && top.Epoch() != at.Epoch() {
				t.Fatalf("round %d: %s has position %s after %s", round, p.object, at, top)
			}
			if at.Offset() > tops[p.object].Offset() {
				tops[p.object] = at
			}
			total++
		}
		c.readAndKill(50+rand.IntN(300), read)

		e := open(t, cfg)
		for object, top := range tops {
			now, err := e.State().Tops(t.Context(), []string{object})
			if err != nil || now[0].Epoch() != top.Epoch() || now[0].Offset() < top.Offset() {
				t.Errorf("round %d: the position of %s is %v, want %s or later, %v", round, object, now, top, err)
			}
			if _, err := e.State().Changes(t.Context(), object, top, state.Range{}, 1000); err != nil {
				t.Errorf("round %d: %s cannot be continued at %s: %v", round, object, top, err)
			}
		}
		for p, want := range acked {
			x := value(t, e.State(), p.object, fmt.Sprint("x", p.writer))
			y := value(t, e.State(), p.object, fmt.Sprint("y", p.writer))
			var got int
			if _, err := fmt.Sscan(x, &got); err != nil || x != y || got < want {
				t.Errorf("round %d: writer %d of %s has %s and %s, want %d or later", round, p.writer, p.object, x, y, want)
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d writes in %d processes", total, rounds)
}
