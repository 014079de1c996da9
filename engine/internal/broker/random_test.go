package broker_test

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/engine/internal/broker"
)

var (
	seed  = flag.Uint64("seed", 0, "run TestRandomFaults with this seed; goroutines may still take turns in another way")
	clock atomic.Int64 // ticks when a message is published or something comes
)

// With connections that are lost before, in the middle of and after what they send, answers that do not come, messages that come late, and
// nodes that are slow: every node hears each other's messages in their order and none twice, and if any is missing it is told so after it was
// sent. When faults have ended it hears everything.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	for range 100 {
		s := cmp.Or(*seed, rand.Uint64())
		synctest.Test(t, func(t *testing.T) {
			t.Logf("again: go test ./engine/internal/broker -run TestRandomFaults -seed %d", s)
			randomFaults(t, s)
		})
	}
}

func randomFaults(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's
	e := &bus{}
	var nodes []*node
	for range 3 {
		n := start(t, e, broker.Config{Queue: 20_000})
		n.Subscribe("x")
		nodes = append(nodes, n)
	}
	synctest.Wait()
	e.set(func() { e.faults = rand.New(rand.NewPCG(seed, 1)) }) //nolint:gosec // a test's

	sent := make([][]int64, len(nodes)) // for each node and message, when
	say := func(k int) {
		now := clock.Add(1)
		if nodes[k].say("x", fmt.Sprint(k, " ", len(sent[k]))) == nil {
			sent[k] = append(sent[k], now)
		}
	}
	var unblock func()
	for range 2000 {
		switch action := random.IntN(200); {
		case action < 160:
			say(random.IntN(3))
		case action < 170:
			pass(time.Duration(random.IntN(1000)) * time.Millisecond)
		case action < 180:
			nodes[random.IntN(3)].Unsubscribe("other")
		case action < 190:
			nodes[random.IntN(3)].Subscribe("other")
		case action < 191:
			e.stop()
			pass(time.Duration(random.IntN(1000)) * time.Millisecond)
			e.set(func() { e.down = false })
		case action < 192 && unblock != nil:
			unblock()
			unblock = nil
		case action < 192:
			unblock = nodes[0].block()
		default:
			e.set(func() {
				for _, m := range e.stuck {
					e.publish(m)
				}
				e.stuck = nil
			})
		}
	}
	if unblock != nil {
		unblock()
	}
	e.set(func() { e.faults, e.stuck = nil, nil })
	pass(time.Minute)
	healed := clock.Load()
	for k, n := range nodes {
		for range 10 {
			say(k)
		}
		if h := n.Health(); !h.Connected || h.Queued > 5000 {
			t.Errorf("node %d: health %+v", k, h)
		}
	}
	pass(time.Minute)
	for at, n := range nodes {
		check(t, at, n.take(), sent, healed)
	}
}

// check checks what the node called at heard: what it missed must be from before a gap, and that from before the end of all faults.
func check(t *testing.T, at int, heard []event, sent [][]int64, healed int64) {
	next, gap := make([]int, len(sent)), int64(0)
	missed := func(k, i int) {
		if when := sent[k][i]; when > gap || when > healed {
			t.Errorf("node %d missed %d of %d, sent at %d, and was told at %d; faults ended at %d", at, i, k, when, gap, healed)
		}
	}
	for _, h := range heard {
		if strings.HasPrefix(h.what, "gap: ") {
			gap = h.when
		}
	}
	for _, h := range heard {
		from, number, ok := strings.Cut(h.what, " ")
		if from == "gap:" || !ok {
			continue
		}
		k, _ := strconv.Atoi(from)
		i, _ := strconv.Atoi(number)
		if k == at || i < next[k] {
			t.Errorf("node %d heard %d of %d when it was at %d", at, i, k, next[k])
		}
		for ; next[k] < i; next[k]++ {
			missed(k, next[k])
		}
		next[k] = i + 1
	}
	for k := range sent {
		for ; k != at && next[k] < len(sent[k]); next[k]++ {
			missed(k, next[k])
		}
	}
}
