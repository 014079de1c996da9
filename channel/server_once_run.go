package channel

import (
	"context"
	"time"

	"bennu.example/push"
	"bennu.example/serializer"
)

// enter returns what a channel needs for pushes with an id. It reports false if the channel has
// ended. Only the goroutine of the callbacks calls it.
func (o *once) enter(c *Channel) (in *onceChannel, ok bool) {
	o.mu.Lock()
	in = o.channels[c]
	o.mu.Unlock()
	if in != nil {
		return in, true
	}
	in = &onceChannel{runs: make(map[serializer.Ref]*onceRun)}
	o.mu.Lock()
	o.channels[c] = in
	o.mu.Unlock()
	if c.OnEnd(func() { o.end(c, in) }) {
		return in, true
	}
	o.end(c, in)
	return nil, false
}

// end releases what was not answered when the channel ends, and waits for its goroutines. The
// channel's context is cancelled by then.
func (o *once) end(c *Channel, in *onceChannel) {
	o.mu.Lock()
	delete(o.channels, c)
	left := make([]*onceRun, 0, len(in.runs))
	for _, run := range in.runs {
		left = append(left, run)
	}
	o.mu.Unlock()
	for _, run := range left {
		if o.take(in, run) {
			o.release(context.Background(), c, run)
		}
	}
	in.work.Wait()
}

// start enters a run in the tables. It returns a run that had the same ref, which the caller must
// release: the client has used the ref twice.
func (o *once) start(ctx context.Context, c *Channel, in *onceChannel, run *onceRun) (before *onceRun) {
	o.mu.Lock()
	if !run.ref.IsNull() {
		before = in.runs[run.ref]
		in.runs[run.ref] = run
	}
	if before != nil {
		o.takeLocked(in, before)
	}
	in.current = run
	o.running[run.key] = run
	o.renewLater(ctx, c, in, run)
	o.mu.Unlock()
	return before
}

func (o *once) leave(in *onceChannel) {
	o.mu.Lock()
	in.current = nil
	o.mu.Unlock()
}

func (o *once) pushID(c *Channel) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if in := o.channels[c]; in != nil && in.current != nil {
		return in.current.id
	}
	return ""
}

// take makes a run the caller's to finish or to release. It reports false if it is another's.
func (o *once) take(in *onceChannel, run *onceRun) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if run.taken {
		return false
	}
	o.takeLocked(in, run)
	return true
}

func (o *once) takeLocked(in *onceChannel, run *onceRun) {
	run.taken = true
	if in.runs[run.ref] == run {
		delete(in.runs, run.ref)
	}
	if run.renewal.Stop() {
		in.work.Done()
	}
}

// over ends a run that was finished or released.
func (o *once) over(run *onceRun) {
	o.mu.Lock()
	if o.running[run.key] == run {
		delete(o.running, run.key)
	}
	o.mu.Unlock()
	close(run.done)
}

// renewLater renews the lease of a run now and then. The caller holds mu.
func (o *once) renewLater(ctx context.Context, c *Channel, in *onceChannel, run *onceRun) {
	in.work.Add(1)
	run.renewal = time.AfterFunc(onceRenewal, func() {
		defer in.work.Done()
		if _, _, err := o.begin(ctx, run.key, run.holder); err != nil {
			c.up.Log(c.driver(), "store of Once failed", err)
		}
		o.mu.Lock()
		if !run.taken {
			o.renewLater(ctx, c, in, run)
		}
		o.mu.Unlock()
	})
}

// begin calls the store. The end of the channel does not cancel it.
func (o *once) begin(ctx context.Context, key, holder string) (mine bool, reply []byte, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), onceStoreTime)
	defer cancel()
	return o.store.Begin(ctx, key, holder, onceLease)
}

// finish records the reply to a run that the caller has taken, and returns the one that counts.
func (o *once) finish(ctx context.Context, c *Channel, run *onceRun, reply push.Reply, body []byte) push.Reply {
	defer o.over(run)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), onceStoreTime)
	defer cancel()
	counts, err := o.store.Finish(ctx, run.key, run.holder, body, o.window)
	switch {
	case err != nil: // the effect is there, and an answer prevents that the push is sent again
		c.up.Log(c.driver(), "store of Once failed", err)
	case string(counts) == string(body) && string(body) == string(onceDone):
		return reply // it is too large to be recorded
	default:
		return decodeOnce(counts)
	}
	return reply
}

// release gives up a run that the caller has taken.
func (o *once) release(ctx context.Context, c *Channel, run *onceRun) {
	defer o.over(run)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), onceStoreTime)
	defer cancel()
	if err := o.store.Release(ctx, run.key, run.holder); err != nil {
		c.up.Log(c.driver(), "store of Once failed", err)
	}
}

// await answers a push when the run that handles its id is over. It reports false if too many
// pushes of the channel wait.
func (o *once) await(ctx context.Context, m *oncePush, in *onceChannel) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if in.waiting >= maxOnceWaiting {
		return false
	}
	in.waiting++
	in.work.Go(func() {
		again := o.poll(ctx, m)
		o.mu.Lock()
		in.waiting--
		o.mu.Unlock()
		if !again {
			return
		}
		it := item{kind: itemEvent, caused: true, ref: m.ref, event: m.event, payload: m.payload}
		if m.c.mailbox.EnqueueOwn(it, len(m.payload.Bytes())) != nil {
			_ = m.c.Reply(Ref{m.ref}, replyNoStore) // an error means that the channel has ended
		}
	})
	return true
}

// poll waits until a run is over and sends its reply. It reports true if the run was released, so
// that the push must be handled after all.
func (o *once) poll(ctx context.Context, m *oncePush) (again bool) {
	holder := o.newHolder()
	for wait := firstOncePoll; ; wait = min(2*wait, maxOncePoll) {
		o.mu.Lock()
		run := o.running[m.key]
		o.mu.Unlock()
		var done <-chan struct{} // nil if another node handles it
		if run != nil {
			done = run.done
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-done:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return false
		}
		mine, recorded, err := o.begin(ctx, m.key, holder)
		var reply push.Reply
		switch {
		case err != nil:
			reply = o.failure(m.c, err)
		case mine:
			if o.store.Release(context.WithoutCancel(ctx), m.key, holder) == nil {
				return true
			}
			reply = replyNoStore
		case recorded != nil:
			reply = decodeOnce(recorded)
		default:
			continue
		}
		_ = m.c.Reply(Ref{m.ref}, reply) // an error means that the channel has ended
		return false
	}
}
