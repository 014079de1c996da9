package socket

import (
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/loop"
	"bennu.example/serializer"
	"bennu.example/transport"
)

const (
	// clientBatch bounds the messages that are written at once, in bytes before encoding.
	clientBatch = 256 << 10
	// clientKept is the capacity, in messages, of the slices that an idle connection keeps.
	clientKept = 4
	// clientInbox is the number of messages that may wait for the loop. Beyond it, the reader waits.
	clientInbox = 1024
	// clientCongested is the size in bytes of the pushes that wait for the network beyond which
	// PushNow fails.
	clientCongested = 64 << 10
	// clientLastWrites bounds the time in which a connection that is being closed writes its last
	// messages. Together with the transport's CloseTimeout it is less than clientCloseGrace.
	clientLastWrites = 400 * time.Millisecond
	// clientReadGrace is how long the loop waits, after a write failed, for the reader to report why
	// the connection ended.
	clientReadGrace = time.Second
)

// clientConn is one connection: a reader, and a writer that runs while there is something to write.
// Their tasks for the loop name the connection, so that the loop can ignore those of an earlier
// one.
type clientConn struct {
	c      *Client
	t      transport.ClientConn
	name   string // of the transport
	opened time.Time

	// The following fields belong to the loop.
	heartbeat clientHeartbeat
	grace     loop.Timer // armed when a write has failed
	writeErr  error
	largeRef  uint64 // of the last large message, until the server is known to have read it
	largeSize int

	framed atomic.Uint64 // bytes received when the last frame was complete

	// The messages that were not handed to the network are batch[claimed:], followed by queue. Only
	// the writer changes batch, and it holds mu.
	mu          sync.Mutex
	queue       []clientlink.Out // in the order of their refs
	withdrawn   int              // entries of queue that are Withdrawn
	batch       []clientlink.Out
	claimed     int
	waiting     int // bytes of pushes that the network has not accepted
	claimedSize int // of these, the bytes that the writer has claimed
	writing     bool
	held        bool // the writer does not start
	failed      bool // a write has failed, and nothing is written any more
	ended       bool
	last        []clientlink.Out // the messages to write after the writer's current batch, once ended
	writingLast bool             // batch is last
	idle        chan struct{}    // made by end for closeSoon, and closed when the writer has ended

	list []*serializer.Frame // a buffer of the writer
}

// clientHeartbeat is the state of a connection's heartbeats.
type clientHeartbeat struct {
	timer    loop.Timer
	ref      serializer.Ref // of the heartbeat that has no reply yet, or null
	sent     time.Time
	timeout  time.Duration
	bytes    uint64 // received when the timer was armed
	patience int    // further timeouts that are allowed while bytes arrive
}

func (c *Client) newConn(t transport.ClientConn, name string) *clientConn {
	k := &clientConn{c: c, t: t, name: name, opened: time.Now()}
	k.heartbeat.timer.Task = (*clientHeartbeatTask)(k)
	k.grace.Task = (*clientGraceTask)(k)
	return k
}

// send enqueues a message. Only the loop calls it.
func (k *clientConn) send(o clientlink.Out) {
	k.noteLarge(&o)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.queue = append(k.queue, o)
	k.waiting += o.Size
	k.start()
}

// hold keeps the writer from starting until unhold, so that the messages between the two are
// written together. Only the loop calls it.
func (k *clientConn) hold() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held = true
}

func (k *clientConn) unhold() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held = false; len(k.queue) > 0 {
		k.start()
	}
}

// start starts the writer unless it is running or held. The caller holds mu.
func (k *clientConn) start() {
	if !k.writing && !k.held {
		k.writing = true
		k.c.goroutines.Add()
		go k.write()
	}
}

// withdraw removes the message with that ref from the queue, unless the writer has taken it. An
// empty entry remains until there are more empty entries than messages. Only the loop calls it.
func (k *clientConn) withdraw(ref uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := sort.Search(len(k.queue), func(i int) bool { return k.queue[i].Ref >= ref })
	if i == len(k.queue) || k.queue[i].Ref != ref || k.queue[i].Withdrawn {
		return
	}
	k.waiting -= k.queue[i].Size
	k.queue[i] = clientlink.Out{Ref: ref, Withdrawn: true}
	if k.withdrawn++; k.withdrawn > len(k.queue)/2 {
		k.queue = slices.DeleteFunc(k.queue, func(o clientlink.Out) bool { return o.Withdrawn })
		k.withdrawn = 0
	}
}

// isCongested reports whether more than clientCongested bytes of pushes wait for the network.
func (k *clientConn) isCongested() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.waiting > clientCongested
}

// end stops the writer after it has written the last messages, and returns the messages that were
// not handed to the network. Only the loop calls it.
func (k *clientConn) end(last []clientlink.Out) []clientlink.Out {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	rest := slices.Concat(k.batch[k.claimed:], k.queue)
	k.claimed = len(k.batch)
	k.queue = nil
	if len(last) > 0 && !k.failed {
		k.last, k.idle = last, make(chan struct{})
		k.start()
	}
	return rest
}

// signalIdle lets closeSoon continue if it waits for the writer. The caller holds mu.
func (k *clientConn) signalIdle() {
	if k.idle != nil {
		close(k.idle)
		k.idle = nil
	}
}

// write writes batches until there is nothing to write.
func (k *clientConn) write() {
	defer k.c.goroutines.Done()
	for k.take() {
		if err := k.writeBatch(); err != nil { // writing stays true: nothing is written any more
			k.mu.Lock()
			k.failed = true
			k.signalIdle()
			k.mu.Unlock()
			k.c.post(&clientWriteFailed{k, err})
			return
		}
	}
}

// take takes a batch from the queue. If there is none, it returns false and the writer must end.
func (k *clientConn) take() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.accepted()
	if k.ended {
		k.batch, k.claimed, k.last, k.writingLast = k.last, 0, nil, true
		if k.writing = len(k.batch) > 0; !k.writing {
			k.signalIdle()
		}
		return k.writing
	}
	if clear(k.batch); cap(k.batch) > clientKept {
		k.batch = nil
	}
	k.batch, k.claimed = k.batch[:0], 0
	n, size := 0, 0
	for n < len(k.queue) && (len(k.batch) == 0 || size < clientBatch) {
		if o := &k.queue[n]; o.Withdrawn {
			k.withdrawn--
		} else {
			k.batch = append(k.batch, *o)
			size += o.Size
		}
		n++
	}
	clear(k.queue[:n])
	if n == len(k.queue) {
		k.queue = k.queue[:0]
		if cap(k.queue) > clientKept {
			k.queue = nil
		}
	} else {
		k.queue = k.queue[n:]
	}
	k.writing = len(k.batch) > 0
	return k.writing
}

// claim returns the next n messages of the batch, which count as handed to the network from now on.
// It returns nil if the connection has ended, because end has returned these messages.
func (k *clientConn) claim(n int) []clientlink.Out {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.accepted()
	if k.ended && !k.writingLast {
		return nil
	}
	k.claimed += n
	claimed := k.batch[k.claimed-n : k.claimed]
	for i := range claimed {
		k.claimedSize += claimed[i].Size
	}
	return claimed
}

// accepted is called when a write has returned. The caller holds mu.
func (k *clientConn) accepted() {
	k.waiting -= k.claimedSize
	k.claimedSize = 0
}

// writeBatch encodes the batch and writes it in the portions that the transport sends together.
// When the connection ends, the portions that were not claimed are known not to have been sent.
func (k *clientConn) writeBatch() error {
	frames := k.encode()
	k.list = k.list[:0]
	for i := range frames {
		k.list = append(k.list, &frames[i])
	}
	defer func() {
		if clear(k.list); cap(k.list) > clientKept {
			k.list = nil
		}
	}()
	for left := k.list; len(left) > 0; {
		n := k.t.Batch(left)
		batch := k.claim(n)
		if batch == nil {
			return nil
		}
		err := k.t.Write(left[:n]...)
		k.c.framesOut.Add(uint64(n))
		for i := range batch {
			batch[i].Release()
		}
		if err != nil {
			return err
		}
		left = left[n:]
	}
	return nil
}

// encode returns the frames of the batch. It removes messages that cannot be encoded, and reports
// them.
func (k *clientConn) encode() []serializer.Frame {
	size := 0
	for i := range k.batch {
		m := &k.batch[i].Msg
		size += 64 + len(m.Topic) + len(m.Event) + len(m.Payload.Bytes())
	}
	buf := make([]byte, 0, size) // new for each batch: the transport may keep it, and the frames
	frames := make([]serializer.Frame, 0, len(k.batch))
	var refused []error // by index in the batch; allocated for the first error
	for i := range k.batch {
		start := len(buf)
		op, longer, err := k.c.cfg.Serializer.Append(buf, &k.batch[i].Msg)
		if err != nil {
			if refused == nil {
				refused = make([]error, len(k.batch))
			}
			refused[i] = err
			continue
		}
		buf = longer
		frames = append(frames, serializer.Frame{Op: op, Data: buf[start:len(buf):len(buf)]})
	}
	if refused != nil {
		k.refuse(refused)
	}
	return frames
}

// refuse removes the messages with an error from the batch. After the end it does nothing, because
// the messages were returned to their channels.
func (k *clientConn) refuse(errs []error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended && !k.writingLast {
		return
	}
	kept := k.batch[:0]
	for i, err := range errs {
		o := &k.batch[i]
		if err == nil {
			kept = append(kept, *o)
			continue
		}
		o.Release()
		k.waiting -= o.Size
		if o.From != nil {
			k.c.post(&clientRefused{o.From, o.Ref, err})
		}
	}
	clear(k.batch[len(kept):])
	k.batch = kept
}

// read reads until the connection ends.
func (k *clientConn) read() {
	defer k.c.goroutines.Done()
	for {
		op, data, err := k.t.Read()
		if err != nil {
			k.c.post(&clientReadEnded{k, err})
			return
		}
		in, _ := k.t.Bytes()
		k.framed.Store(in)
		k.c.framesIn.Add(1)
		k.c.lastFrame.Store(time.Now().UnixNano())
		m, err := k.c.cfg.Serializer.ParseClient(op, data)
		if err != nil { // phoenix.js ignores malformed frames as well
			k.c.malformed(err)
			continue
		}
		k.c.loop.PostWait(clientItem{conn: k, msg: m}, clientInbox)
	}
}

// closeSoon closes the connection on a new goroutine, after the last messages were written.
func (k *clientConn) closeSoon(code int, reason string) {
	k.mu.Lock()
	idle := k.idle
	k.mu.Unlock()
	k.c.goroutines.Add()
	go func() {
		defer k.c.goroutines.Done()
		if idle != nil {
			late := time.NewTimer(clientLastWrites)
			defer late.Stop()
			select {
			case <-idle:
			case <-late.C:
			}
		}
		if err := k.t.Close(code, reason); err != nil {
			k.c.cfg.Logger.Debug().Err(err).Msg("connection close failed")
		}
	}()
}

// Tasks that a connection's goroutines and timers post to the loop.
type (
	clientReadEnded struct {
		k   *clientConn
		err error
	}
	clientWriteFailed clientReadEnded
	clientRefused     struct {
		from clientlink.Channel
		ref  uint64
		err  error
	}
	clientHeartbeatTask clientConn
	clientGraceTask     clientConn
)

func (t *clientReadEnded) Run() { t.k.c.lost(t.k, t.err) }

// Run waits for the reader's error, which usually explains the failure better than the writer's.
func (t *clientWriteFailed) Run() {
	switch c := t.k.c; t.k {
	case c.conn:
		t.k.writeErr = t.err
		c.loop.Arm(&t.k.grace, clientReadGrace)
	case c.move.conn:
		c.moveFailed(t.err)
	}
}

func (t *clientRefused) Run() { t.from.Refused(t.ref, t.err) }

func (t *clientHeartbeatTask) Run() { t.c.heartbeatDue((*clientConn)(t)) }
func (t *clientGraceTask) Run()     { t.c.lost((*clientConn)(t), t.writeErr) }
