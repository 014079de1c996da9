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
	seed  = flag.Uint64("seed", 0, "run TestRandomFaults with this seed; the order of goroutines may still differ")
	clock atomic.Int64 // ticks when a message is published or received
)

// Connections are lost before, during and after sending, answers are missing, messages are delayed,
// and nodes are slow. Every node must receive the messages of each other node in order and none
// twice. For every missing message, it must receive a gap after the message was sent. After the
// faults have ended, it must receive everything.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	for range 100 {
		s := cmp.Or(*seed, rand.Uint64())
		synctest.Test(t, func(t *testing.T) {
			t.Logf("repeat with: go test ./engine/internal/broker -run TestRandomFaults -seed %d", s)
			randomFaults(t, s)
		})
	}
}

func randomFaults(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // for a test
	e := &bus{}
	var nodes []*node
	for range 3 {
		n := start(t, e, broker.Config{Queue: 20_000})
		n.Subscribe("x")
		nodes = append(nodes, n)
	}
	synctest.Wait()
	e.set(func() { e.faults = rand.New(rand.NewPCG(seed, 1)) }) //nolint:gosec // for a test

	sent := make([][]int64, len(nodes)) // the time of each message, by node
	publish := func(k int) {
		now := clock.Add(1)
		if nodes[k].publish("x", fmt.Sprint(k, " ", len(sent[k]))) == nil {
			sent[k] = append(sent[k], now)
		}
	}
	var unblock func()
	for range 2000 {
		switch action := random.IntN(200); {
		case action < 160:
			publish(random.IntN(3))
		case action < 170:
			advance(time.Duration(random.IntN(1000)) * time.Millisecond)
		case action < 180:
			nodes[random.IntN(3)].Unsubscribe("other")
		case action < 190:
			nodes[random.IntN(3)].Subscribe("other")
		case action < 191:
			e.stop()
			advance(time.Duration(random.IntN(1000)) * time.Millisecond)
			e.set(func() { e.down = false })
		case action < 192 && unblock != nil:
			unblock()
			unblock = nil
		case action < 192:
			unblock = nodes[0].block()
		default:
			e.set(func() {
				for _, m := range e.delayed {
					e.publish(m)
				}
				e.delayed = nil
			})
		}
	}
	if unblock != nil {
		unblock()
	}
	e.set(func() { e.faults, e.delayed = nil, nil })
	advance(time.Minute)
	healed := clock.Load()
	for k, n := range nodes {
		for range 10 {
			publish(k)
		}
		if h := n.Health(); !h.Connected || h.Queued > 5000 {
			t.Errorf("node %d: health %+v", k, h)
		}
	}
	advance(time.Minute)
	for at, n := range nodes {
		check(t, at, n.take(), sent, healed)
	}
}

// check checks what node at has received. A gap must follow every message that it missed, and it
// may miss only messages that were sent before the faults ended.
func check(t *testing.T, at int, received []record, sent [][]int64, healed int64) {
	next, gap := make([]int, len(sent)), int64(0)
	missed := func(k, i int) {
		if when := sent[k][i]; when > gap || when > healed {
			t.Errorf("node %d missed message %d of node %d, sent at %d; last gap at %d; faults ended at %d",
				at, i, k, when, gap, healed)
		}
	}
	for _, r := range received {
		if strings.HasPrefix(r.text, "gap: ") {
			gap = r.when
		}
	}
	for _, r := range received {
		from, number, ok := strings.Cut(r.text, " ")
		if from == "gap:" || !ok {
			continue
		}
		k, _ := strconv.Atoi(from)
		i, _ := strconv.Atoi(number)
		if k == at || i < next[k] {
			t.Errorf("node %d received message %d of node %d, want at least %d", at, i, k, next[k])
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
