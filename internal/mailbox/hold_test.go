package mailbox_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/mailbox"
)

// gated is a mailbox whose function holds every item while shut is true.
type gated struct {
	*mailbox.Mailbox[int]
	shut bool // changed only while the mailbox is idle
	got  []int
}

func newGated(workers *mailbox.Workers, max int) *gated {
	g := &gated{shut: true}
	g.Mailbox = newMailbox(workers, max, func(i int) {
		if g.shut && g.Hold() {
			return
		}
		g.got = append(g.got, i)
	})
	return g
}

func (g *gated) open() {
	g.shut = false
	g.Resume()
}

func enqueue(t *testing.T, b *mailbox.Mailbox[int], from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := b.Enqueue(i, 10); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHeldItemComesBackFirst(t *testing.T) {
	each(t, func(t *testing.T, workers *mailbox.Workers) {
		synctest.Test(t, func(t *testing.T) {
			workers := workers
			if workers != nil {
				workers = new(mailbox.Workers) // of this bubble
			}
			g := newGated(workers, 1<<20)
			enqueue(t, g.Mailbox, 0, 1)
			synctest.Wait()
			enqueue(t, g.Mailbox, 1, 100)
			synctest.Wait()
			if workers != nil {
				workers.Wait() // a held mailbox keeps no goroutine
			}
			if len(g.got) != 0 || g.Used() != 100*(10+64) {
				t.Fatalf("held: ran %v, %d bytes in use", g.got, g.Used())
			}
			g.open()
			synctest.Wait()
			if len(g.got) != 100 || !slices.IsSorted(g.got) || g.Used() != 0 {
				t.Fatalf("resumed: ran %v, %d bytes in use", g.got, g.Used())
			}
			g.Resume() // nothing is held
			g.shut = true
			enqueue(t, g.Mailbox, 100, 103)
			synctest.Wait()
			if len(g.got) != 100 {
				t.Fatal("an earlier Resume counted for an item that came later")
			}
			g.Mailbox.Close(true, 103)
			g.Wait()
			if len(g.got) != 104 || !slices.IsSorted(g.got) || g.Hold() {
				t.Fatalf("closed: ran %v", g.got[100:])
			}
		})
	})
}

func TestCloseDropsHeldItem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGated(nil, 1<<20)
		enqueue(t, g.Mailbox, 0, 5)
		synctest.Wait()
		g.Mailbox.Close(false, 9)
		g.Wait()
		if !slices.Equal(g.got, []int{9}) || g.Used() != 0 {
			t.Fatalf("ran %v, %d bytes in use", g.got, g.Used())
		}
	})
}

func TestResumeWhileTheItemRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got []int
		asked := 0
		var b *mailbox.Mailbox[int]
		b = newMailbox(nil, 1<<20, func(i int) {
			if asked++; asked == 1 {
				b.Hold()
				b.Resume()
				return
			}
			got = append(got, i)
		})
		enqueue(t, b, 7, 8)
		synctest.Wait()
		b.Close(true)
		b.Wait()
		if !slices.Equal(got, []int{7}) || asked != 2 {
			t.Fatalf("ran %v after %d times", got, asked)
		}
	})
}

// The time for which a mailbox is held does not count for callers that wait for room.
func TestEnqueueWaitWhileHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var b *mailbox.Mailbox[int]
		held := true
		b = newMailbox(nil, 100, func(int) {
			if held && b.Hold() {
				return
			}
			<-gate
		})
		enqueue(t, b, 0, 1)
		synctest.Wait()
		done := make(chan error, 1)
		go func() { done <- b.EnqueueWait(1, 50, time.Second) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("gave up: %v", err)
		default:
		}
		held = false
		b.Resume()
		start := time.Now()
		err, took := <-done, time.Since(start)
		if !errors.Is(err, mailbox.ErrFull) || took > 2*time.Second || took < time.Second {
			t.Fatalf("%v, %v after the mailbox went on", err, took)
		}
		close(gate)
		b.Close(true)
		b.Wait()
	})
}
