package boltengine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"bennu.example/engine/boltengine"
	"bennu.example/offline"
)

// killWriter is the identity of a writer of the test of killed processes. Each write of it replaces
// two entries and a mirror by those of the next number, at once.
type killWriter int

func (w killWriter) identity() string { return fmt.Sprint("user-", int(w)%2) }
func (w killWriter) topic() string    { return fmt.Sprint("writer:", int(w)) }

// seqs returns the entries of a number.
func (w killWriter) seqs(n int) [2]uint64 {
	first := uint64(n)*64 + uint64(w)*2 + 1
	return [2]uint64{first, first + 1}
}

func (w killWriter) ops(n int) []offline.Op {
	ops := []offline.Op{{Keep: &offline.Mirror{Topic: w.topic(), Kind: "n", Value: fmt.Append(nil, n)}}}
	for i, seq := range w.seqs(n) {
		e := offline.Entry{Seq: seq, ID: fmt.Sprint(n), Topic: w.topic(), Payload: make([]byte, n%7*100)}
		ops = append(ops, offline.Op{Put: &e})
		if n > 0 {
			ops = append(ops, offline.Op{Drop: w.seqs(n - 1)[i]})
		}
	}
	return ops
}

// state reads the number of a writer, which is -1 at first. It returns an error if the entries are
// not those of the number.
func (w killWriter) state(s offline.Store) (n int, err error) {
	n = -1
	var entries []offline.Entry
	if err := s.Load(context.Background(), w.identity(), func(e offline.Entry, m *offline.Mirror) (err error) {
		if m == nil && e.Topic == w.topic() {
			entries = append(entries, e)
		} else if m != nil && m.Topic == w.topic() {
			n, err = strconv.Atoi(string(m.Value))
		}
		return err
	}); err != nil {
		return n, err
	}
	if n < 0 && len(entries) == 0 {
		return n, nil
	}
	if len(entries) != 2 {
		return n, fmt.Errorf("%s has the number %d and %d entries", w.topic(), n, len(entries))
	}
	for i, seq := range w.seqs(n) {
		if e := entries[i]; e.Seq != seq || e.ID != fmt.Sprint(n) || len(e.Payload) != n%7*100 {
			return n, fmt.Errorf("%s has the number %d and the entry %d of %s", w.topic(), n, e.Seq, e.ID)
		}
	}
	return n, nil
}

// applyClientForever is the child process: writers go on from where they are, and each number is
// printed when it is stored.
func applyClientForever(path string, writers int) error {
	s, err := boltengine.OpenClient(path)
	if err != nil {
		return err
	}
	lines, failed := make(chan string), make(chan error, writers)
	for w := range killWriter(writers) {
		n, err := w.state(s)
		if err != nil {
			return err
		}
		go func() {
			for n++; ; n++ {
				if err := s.Apply(context.Background(), w.identity(), w.ops(n)); err != nil {
					failed <- err
					return
				}
				lines <- fmt.Sprint(int(w), " ", n)
			}
		}()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = os.Stdin.Read(make([]byte, 1))
	}()
	fmt.Fprintln(os.Stdout, "ready")
	for {
		select {
		case line := <-lines:
			fmt.Fprintln(os.Stdout, line)
		case err := <-failed:
			return err
		case <-ended:
			return s.Close()
		}
	}
}

// A process that writes is killed at random moments, again and again. Each write that was
// acknowledged is in the file afterwards, and of each write everything or nothing.
func TestClientKill(t *testing.T) {
	kills, limit := 300, 6*time.Second // as many as fit
	switch {
	case os.Getenv("NIGHTLY") == "true":
		kills, limit = 1000, 10*time.Minute
	case testing.Short():
		kills, limit = 30, 2*time.Second
	}
	const writers = 4
	path := filepath.Join(t.TempDir(), "client.db")
	stored := [writers]int{-1, -1, -1, -1}
	rounds, ahead := 0, 0
	for begun := time.Now(); rounds < 10 || rounds < kills && time.Since(begun) < limit; rounds++ {
		c := start(t, "-path", path, "-client", "-writers", fmt.Sprint(writers))
		if line := c.line(); line != "ready" {
			t.Fatalf("the process began with %q", line)
		}
		read := func(line string) {
			var w, n int
			if _, err := fmt.Sscan(line, &w, &n); err != nil {
				t.Fatalf("the process printed %q", line)
			}
			if n != stored[w]+1 {
				t.Errorf("round %d: writer %d wrote %d after %d", rounds, w, n, stored[w])
			}
			stored[w] = n
		}
		for range rand.IntN(8) {
			read(c.line())
		}
		<-time.After(time.Duration(rand.IntN(2000)) * time.Microsecond) // a random moment of a commit
		c.readAndKill(0, read)
		s, err := boltengine.OpenClient(path)
		if err != nil {
			t.Fatal(err)
		}
		for w := range killWriter(writers) {
			n, err := w.state(s)
			// While a line is being printed, its writer goes on.
			if err != nil || n < stored[w] || n > stored[w]+2 {
				t.Errorf("round %d: %s has the number %d of %d, %v", rounds, w.topic(), n, stored[w], err)
			}
			if n > stored[w] {
				ahead++
			}
			stored[w] = n
		}
		if err := s.Close(); err != nil || t.Failed() {
			t.Fatal(errors.Join(err, errors.New("failed")))
		}
	}
	t.Logf("%d kills, %v writes, %d of them stored but not acknowledged", rounds, stored, ahead)
}
