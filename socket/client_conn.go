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
	// clientBatch bounds what is written at once, in bytes before encoding.
	clientBatch = 256 << 10
	// clientKept is how many messages' room an idle connection keeps.
	clientKept = 4
	// clientInbox is how many messages wait for the loop before the reader does.
	clientInbox = 1024
	// clientFarewell is how long a connection that is being closed may take for its last messages to get past those before.
	// With the transport's CloseTimeout it is less than clientCloseGrace.
	clientFarewell = 400 * time.Millisecond
	// clientReadGrace is how long the reader has to tell why a write failed.
	clientReadGrace = time.Second
)

// clientConn is one connection: a reader, and a writer that lives while there is something to write. What they tell the loop names the
// connection, so that one that is over cannot be mistaken for the present one.
type clientConn struct {
	c      *Client
	t      transport.ClientConn
	name   string // of the transport
	opened time.Time

	heartbeat clientHeartbeat // the loop's
	grace     loop.Timer      // likewise
	writeErr  error           // likewise
	largeRef  uint64          // likewise: of the last large message, until it is known to have been read
	largeSize int             // likewise

	framed atomic.Uint64 // bytes received when the last frame was complete

	// What was not handed to the network yet is batch[claimed:], and then queue. Only the writer changes batch, under mu.
	mu        sync.Mutex
	queue     []clientlink.Out // in the order of their refs
	withdrawn int              // of the queue
	batch     []clientlink.Out
	claimed   int
	writing   bool
	failed    bool // a write has failed; none follows
	ended     bool
	last      []clientlink.Out // written after the end, when the writer is done with its batch
	parting   bool             // batch is last
	idle      chan struct{}    // made by end for shut: closed when the writer has ended

	list []*serializer.Frame // the writer's, used again
}

// clientHeartbeat is what is known of the link's life.
type clientHeartbeat struct {
	timer    loop.Timer
	ref      serializer.Ref // of the one that is not answered yet; null: none
	sent     time.Time
	timeout  time.Duration
	bytes    uint64 // received when it was last looked at
	patience int
}

func (c *Client) newConn(t transport.ClientConn, name string) *clientConn {
	k := &clientConn{c: c, t: t, name: name, opened: time.Now()}
	k.heartbeat.timer.Task = (*clientHeartbeatTask)(k)
	k.grace.Task = (*clientGraceTask)(k)
	return k
}

// send queues a message. The loop's.
func (k *clientConn) send(o clientlink.Out) {
	k.sent(&o)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.queue = append(k.queue, o)
	k.start()
}

// start starts the writer, unless it runs. The caller holds mu.
func (k *clientConn) start() {
	if !k.writing {
		k.writing = true
		k.c.goroutines.Add()
		go k.write()
	}
}

// withdraw removes the message of that ref from the queue, if the writer did not take it yet. Only its place stays, until
// there are more such places than messages. The loop's.
func (k *clientConn) withdraw(ref uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := sort.Search(len(k.queue), func(i int) bool { return k.queue[i].Ref >= ref })
	if i == len(k.queue) || k.queue[i].Ref != ref || k.queue[i].Withdrawn {
		return
	}
	k.queue[i] = clientlink.Out{Ref: ref, Withdrawn: true}
	if k.withdrawn++; k.withdrawn > len(k.queue)/2 {
		k.queue = slices.DeleteFunc(k.queue, func(o clientlink.Out) bool { return o.Withdrawn })
		k.withdrawn = 0
	}
}

// end stops the writer, once it has written the given messages, and returns what was not handed to the network. Only the
// loop calls it.
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

// rest lets shut go on, if it waits for the writer. The caller holds mu.
func (k *clientConn) rest() {
	if k.idle != nil {
		close(k.idle)
		k.idle = nil
	}
}

// write writes until there is nothing to write.
func (k *clientConn) write() {
	defer k.c.goroutines.Done()
	for k.take() {
		if err := k.writeBatch(); err != nil { // writing stays true: nothing is written any more
			k.mu.Lock()
			k.failed = true
			k.rest()
			k.mu.Unlock()
			k.c.post(&clientWriteFailed{k, err})
			return
		}
	}
}

// take takes a batch from the queue, or brings the writer to rest.
func (k *clientConn) take() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		k.batch, k.claimed, k.last, k.parting = k.last, 0, nil, true
		if k.writing = len(k.batch) > 0; !k.writing {
			k.rest()
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

// claim takes the next n messages of the batch, which then count as handed to the network. It returns nil if the
// connection has ended: end has returned them.
func (k *clientConn) claim(n int) []clientlink.Out {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended && !k.parting {
		return nil
	}
	k.claimed += n
	return k.batch[k.claimed-n : k.claimed]
}

// writeBatch encodes the batch and writes it, each time as much as the transport sends together. So the rest is known not
// to have been sent when the connection ends.
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

// encode makes the frames of the batch. A message that cannot be encoded is removed from the batch and reported.
func (k *clientConn) encode() []serializer.Frame {
	size := 0
	for i := range k.batch {
		m := &k.batch[i].Msg
		size += 64 + len(m.Topic) + len(m.Event) + len(m.Payload.Bytes())
	}
	buf := make([]byte, 0, size) // the transport's to keep, as the frames are
	frames := make([]serializer.Frame, 0, len(k.batch))
	var refused []error // by their places in the batch; nil: none
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

// refuse removes the messages that have an error from the batch. After the end they are the channels' again.
func (k *clientConn) refuse(errs []error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended && !k.parting {
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
		if err != nil { // phoenix.js throws it away as well, and goes on
			k.c.malformed(err)
			continue
		}
		k.c.loop.PostWait(clientItem{conn: k, msg: m}, clientInbox)
	}
}

// shut closes the connection on a goroutine of its own, once the last messages are written: that may take a moment.
func (k *clientConn) shut(code int, reason string) {
	k.mu.Lock()
	idle := k.idle
	k.mu.Unlock()
	k.c.goroutines.Add()
	go func() {
		defer k.c.goroutines.Done()
		if idle != nil {
			late := time.NewTimer(clientFarewell)
			defer late.Stop()
			select {
			case <-idle:
			case <-late.C:
			}
		}
		if err := k.t.Close(code, reason); err != nil {
			k.c.cfg.Logger.Debug().Err(err).Msg("socket: close")
		}
	}()
}

// Tasks that a connection's goroutines and timers bring to the loop.
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

// Run: if a write failed before, then the reader knows better why, unless all it knows is that the connection was closed here.
func (t *clientReadEnded) Run() { t.k.c.lost(t.k, t.err) }

func (t *clientWriteFailed) Run() {
	if t.k == t.k.c.conn {
		t.k.writeErr = t.err
		t.k.c.loop.Arm(&t.k.grace, clientReadGrace)
	}
}

func (t *clientRefused) Run() { t.from.Refused(t.ref, t.err) }

func (t *clientHeartbeatTask) Run() { t.c.heartbeatDue((*clientConn)(t)) }
func (t *clientGraceTask) Run()     { t.c.lost((*clientConn)(t), t.writeErr) }
