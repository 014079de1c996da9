//go:build !race

package channel_test

import (
	"errors"
	"runtime"
	"sync"
	"testing"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

// blockingCarrier blocks the goroutine of a channel's callbacks after the answer to the join, and
// after the answer to the leave.
type blockingCarrier struct {
	*carrier
	blocked *sync.WaitGroup // done when a goroutine blocks
	release chan struct{}
}

func (c *blockingCarrier) Answered() { c.block() }

func (c *blockingCarrier) End(channelhost.Channel, ...*serializer.Frame) { c.block() }

func (c *blockingCarrier) block() {
	c.blocked.Done()
	<-c.release
}

// TestStackOfCallbacks checks that a join and a leave need a stack of 4 KB. A new goroutine has 2
// KB, and copies its stack to double the size. A second copy, to 8 KB, makes a join and a leave
// 1.6 times as expensive.
func TestStackOfCallbacks(t *testing.T) { // not parallel: it counts the stacks of all goroutines
	const n = 512
	var blocked sync.WaitGroup
	ps := pubsub.New(nil)
	h := channel.Define((*room).join)
	carriers := make([]*blockingCarrier, n)
	channels := make([]channelhost.Channel, n)

	runtime.GC()
	before := stackBytes()
	check := func(what string) {
		blocked.Wait()
		if per := (stackBytes() - before) / n; per > 6<<10 {
			t.Errorf("%s: %d bytes of stack per goroutine, want 4 KB", what, per)
		} else {
			t.Logf("%s: %d bytes of stack per goroutine", what, per)
		}
	}
	blocked.Add(n)
	for i := range carriers {
		carriers[i] = &blockingCarrier{newCarrier(ps), &blocked, make(chan struct{})}
		channels[i] = join(carriers[i], channelhost.Join{Handler: h})
	}
	check("join")
	blocked.Add(n)
	for i, c := range channels {
		c.Leave(serializer.Message{Ref: `"2"`}, 0)
		carriers[i].release <- struct{}{}
	}
	check("leave")
	for i, c := range channels {
		close(carriers[i].release)
		c.Close(errors.New("over"))
		c.Wait()
	}
}

func stackBytes() int {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.StackInuse)
}
