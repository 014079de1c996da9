package state

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
)

// patience bounds how long a client waits for the store.
const patience = 2 * time.Second

// patient returns a context for waiting for the store. A Memory answers at once, and needs no
// timer.
func (o *Objects) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	if o.fed {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, patience)
}

// Objects connects a store with channels. New makes it, and its methods may be called from any
// goroutine. All handlers of a program that use one store should come from one Objects.
type Objects struct {
	store Store
	fed   bool // the store feeds without Run
	seed  maphash.Seed
	cells [cellShards]cellShard
	tails atomic.Int64 // bytes of the tails of all cells

	repairs   repairs
	uncertain chan struct{} // has a value if the feed had an interruption
}

const cellShards = 64

// cellShard has some of the cells. Its lock comes before that of a cell.
type cellShard struct {
	mu    sync.Mutex
	cells map[string]*cell
}

// New returns the objects of a store. Unless the store is a Memory, Run must be called.
func New(s Store) *Objects {
	o := &Objects{store: s, seed: maphash.MakeSeed(), uncertain: make(chan struct{}, 1)}
	o.repairs.wake = make(chan struct{}, 1)
	if m, ok := s.(*Memory); ok {
		o.fed = true
		m.attach(o.inbox())
	}
	return o
}

func (o *Objects) inbox() Inbox {
	return Inbox{Change: o.change, Uncertain: func(error) {
		select {
		case o.uncertain <- struct{}{}:
		default:
		}
	}}
}

// Config configures a handler. In the zero Config, clients may read only.
type Config struct {
	// Allow decides what a client may do. Nil means that it may read, and nothing else. It is
	// called in the channel's callbacks: for each join, with Read, and again when the grant of the
	// connection has changed; before a join or a removal of an object, with Create or Remove; and
	// once for each op of a write. The client receives an error made by push.Reject as it is. Any
	// other error is logged, and the client receives "forbidden".
	Allow func(ctx context.Context, c *channel.Channel, a Access) error
	// Visible decides which items a client sees. Nil means all. It is called in the channel's
	// callbacks, for each item of the object when the client joins, then for each change, and for
	// what the client reads. It must be fast. If its answer for an item that did not change has
	// changed, call Objects.Refresh. With Visible, clients cannot continue at a position.
	Visible func(ctx context.Context, c *channel.Channel, it Item) bool
	// Queries are those that clients may name. They are made by Query.
	Queries []QueryDef
	// Limits bound the objects.
	Limits Limits
	// Options are further callbacks of the handler, such as for presence or for events of the program.
	// The events of package state, Info for its messages, Reauthorize, AllowWill and RunWill are
	// taken.
	Options []channel.Option[Session]
}

// Access is what a client wants to do.
type Access struct {
	Action Action
	Topic  string // of the object
	// Op is what is to be written; zero unless Action is Write. Of a merge it has the whole new value.
	// Of a message to a stream it has a Value only, which are any bytes if the message is binary, and
	// of the snapshot of a stream the Key "$snapshot" as well. A write to a tree has one Op for each
	// value that is put, and one for each path whose contents are deleted; Key is the path as the
	// client has it.
	Op Op
}

// Action is a kind of access.
type Action uint8

// The kinds of access.
const (
	Read   Action = iota // join, and read
	Create               // create the object by a join
	Write                // put or delete one item
	Remove               // remove the object
)

func (a Action) String() string { return [...]string{"read", "create", "write", "remove"}[a] }

// Documents returns a handler of documents: each topic is one value.
func (o *Objects) Documents(cfg Config) *channel.Handler { return o.handler(kindDocument, cfg) }

// Maps returns a handler of maps: each topic has values by keys.
func (o *Objects) Maps(cfg Config) *channel.Handler { return o.handler(kindMap, cfg) }

// Lists returns a handler of lists: each topic has values in an order that clients determine.
func (o *Objects) Lists(cfg Config) *channel.Handler { return o.handler(kindList, cfg) }

// Trees returns a handler of trees: each topic has values by paths, such as "players/ann/score".
func (o *Objects) Trees(cfg Config) *channel.Handler { return o.handler(kindTree, cfg) }

// Apply writes an object from the server's own code, without asking Config.Allow. The name of the
// object is its topic. Clients receive the changes. Server values in op.Value, such as
// {"$inc":1}, are not replaced. The key of a path is made by PathKey. See [Store] for the errors.
func (o *Objects) Apply(ctx context.Context, topic string, ops []Op, tx Tx) (Applied, error) {
	a, err := o.store.Apply(ctx, topic, ops, tx)
	if err == nil && !o.fed && !a.Repeated && a.Position != a.Prev {
		o.change(Change{Object: topic, Prev: a.Prev, Position: a.Position, Items: a.Items})
	}
	return a, err
}

// Remove removes an object from the server's own code. Channels of its clients end, reason
// "removed". The error is ErrNotFound if there is none.
func (o *Objects) Remove(ctx context.Context, topic string) error {
	return o.store.Remove(ctx, topic, "")
}

// Health returns the state of the store.
func (o *Objects) Health() history.Health { return o.store.Health() }

// change is Inbox.Change.
func (o *Objects) change(c Change) {
	s := o.shard(c.Object)
	s.mu.Lock()
	cell := s.cells[c.Object]
	s.mu.Unlock()
	if cell != nil {
		cell.change(c)
	}
}

func (o *Objects) shard(topic string) *cellShard {
	return &o.cells[maphash.String(o.seed, topic)%cellShards]
}

// enter returns the cell of an object, for one more user.
func (o *Objects) enter(topic string) *cell {
	s := o.shard(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cells[topic]
	if c == nil {
		c = &cell{o: o, topic: topic, busy: make(chan struct{}, 1), confirmed: make(chan struct{})}
		if s.cells == nil {
			s.cells = make(map[string]*cell)
		}
		s.cells[topic] = c
		o.store.Watch(topic, c.ready)
	}
	c.users++
	return c
}

// exit ends one use of a cell.
func (o *Objects) exit(c *cell) {
	s := o.shard(c.topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.users--; c.users > 0 {
		return
	}
	delete(s.cells, c.topic)
	o.store.Unwatch(c.topic)
	c.close()
}

// all returns the cells in use.
func (o *Objects) all() (all []*cell) {
	for i := range o.cells {
		s := &o.cells[i]
		s.mu.Lock()
		for _, c := range s.cells {
			all = append(all, c)
		}
		s.mu.Unlock()
	}
	return all
}
