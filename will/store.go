package will

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// Keep is how long the arrival of a connection is known, and how long a will that is due can wait
// for a node that claims it.
const Keep = 24 * time.Hour

const (
	// tries bounds the attempts of one change. Each failure means that another one succeeded.
	tries = 200
	// parallel is the number of entries that are changed at a time, because a change of a remote
	// database mostly waits.
	parallel = 8
	// expireAtOnce is the number of entries that Expire requests at a time.
	expireAtOnce = 256
)

var errContended = errors.New("will: too many changes at the same time")

// Table is a database for NewStore. Each operation is atomic. The methods may be called from any
// goroutine.
type Table interface {
	// Get returns the entry of a key, with the present time. An unknown key has an entry without a
	// Value and with an empty Version.
	Get(ctx context.Context, key string) (Entry, error)
	// Swap stores an entry if the stored one still has that version, and reports whether it did. The
	// new version is never that of an earlier entry of the key. An entry without a Value removes the
	// key. For each of e.Nodes that has no lease, Swap stores one that has ended.
	Swap(ctx context.Context, key, version string, e Entry) (bool, error)
	// Due returns the keys of at most max entries whose At has come. Those of zero At never do.
	Due(ctx context.Context, max int) ([]string, error)
	// OfNode returns the keys of at most max entries whose Nodes include a node.
	OfNode(ctx context.Context, node string, max int) ([]string, error)

	// Lease stores that the lease of a node ends after d. It reports whether the node had one that had
	// not ended. If d is negative or zero, the lease ends now.
	Lease(ctx context.Context, node string, d time.Duration) (kept bool, err error)
	// Ended returns the leases that have ended.
	Ended(ctx context.Context) ([]Lease, error)
	// Drop removes the lease of a node, if it has ended and no entry includes the node.
	Drop(ctx context.Context, node string) error
}

// Entry is what a Table has under one key.
type Entry struct {
	Value   []byte
	At      time.Time // see Table.Due
	Nodes   []string  // see Table.OfNode; sorted
	Version string    // set by Get
	Now     time.Time // set by Get: the time of the database
}

// Lease is the lease of a node.
type Lease struct {
	Node string
	End  time.Time
}

// NewStore returns a Store that keeps its state in a table. The table may be shared by many nodes.
// Zero keep means Keep.
func NewStore(t Table, keep time.Duration) Store {
	if keep == 0 {
		keep = Keep
	}
	return &store{t, keep}
}

type store struct {
	table Table
	keep  time.Duration
}

// client is the value of an entry: what is known of one client on one topic. Times are in
// milliseconds since 1970.
type client struct {
	Newest string `json:"newest"` // the ID of the newest connection
	Order  uint64 `json:"order,omitempty"`
	Since  int64  `json:"since"` // when it arrived
	Wills  []held `json:"wills,omitempty"`
}

// held is a will with its state.
type held struct {
	Will
	Due  int64 `json:"due,omitempty"`  // zero while the connection lives
	Held int64 `json:"held,omitempty"` // the end of the claim, or zero
}

// keyOf returns the key of a client on a topic.
func keyOf(topic string, c Connection) string {
	return strconv.Itoa(len(c.ClientID)) + ":" + c.ClientID + strconv.Itoa(len(c.Subject)) + ":" + c.Subject + topic
}

// change applies f to an entry until no other change comes in between. If f returns false, nothing
// is stored.
func (s *store) change(ctx context.Context, key string, f func(c *client, now int64) bool) error {
	for range tries {
		r, err := s.read(ctx, key)
		if err != nil || !f(&r.client, r.now) {
			return err
		}
		if done, err := s.replace(ctx, key, r); done || err != nil {
			return err
		}
	}
	return errContended
}

// reading is an entry as it was read.
type reading struct {
	client

	version string
	now     int64
}

func (s *store) read(ctx context.Context, key string) (*reading, error) {
	e, err := s.table.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	r := &reading{version: e.Version, now: e.Now.UnixMilli()}
	if len(e.Value) > 0 {
		if err := json.Unmarshal(e.Value, &r.client); err != nil {
			return nil, fmt.Errorf("will: malformed entry: %w", err)
		}
	}
	return r, nil
}

// replace stores an entry that was changed. It reports false if another change came in between.
func (s *store) replace(ctx context.Context, key string, r *reading) (bool, error) {
	next, err := s.entry(&r.client, r.now)
	if err != nil {
		return false, err
	}
	return s.table.Swap(ctx, key, r.version, next)
}

// entry returns the entry of a client.
func (s *store) entry(c *client, now int64) (e Entry, err error) {
	at := int64(0)
	for i := range c.Wills {
		w := &c.Wills[i]
		if w.Due == 0 {
			e.Nodes = append(e.Nodes, w.Node)
			continue
		}
		if next := max(w.Due, w.Held); at == 0 || next < at {
			at = next
		}
	}
	slices.Sort(e.Nodes)
	e.Nodes = slices.Compact(e.Nodes)
	if len(c.Wills) == 0 {
		if at = c.Since + s.keep.Milliseconds(); at <= now {
			return Entry{}, nil
		}
	}
	if at != 0 {
		e.At = time.UnixMilli(at)
	}
	e.Value, err = json.Marshal(c)
	return e, err
}

// isNewer reports whether a connection that arrives now is newer than the newest.
func (c *client) isNewer(n Connection) bool {
	return n.Order == 0 || c.Order == 0 || n.Order >= c.Order
}

func (c *client) arrive(n Connection, now int64) { c.Newest, c.Order, c.Since = n.ID, n.Order, now }

func (s *store) Arrive(ctx context.Context, topic string, n Connection) (busy time.Duration, err error) {
	if !utf8.ValidString(topic + n.ID + n.Subject + n.ClientID) {
		return 0, nil // it can have no wills
	}
	err = s.change(ctx, keyOf(topic, n), func(c *client, now int64) (changed bool) {
		busy = 0
		if c.Newest != n.ID && c.isNewer(n) {
			c.arrive(n, now)
			changed = true
		}
		if c.Newest != n.ID {
			return changed
		}
		before := len(c.Wills)
		c.Wills = slices.DeleteFunc(c.Wills, func(w held) bool { return w.Connection.ID != n.ID && w.Held <= now })
		for _, w := range c.Wills {
			if w.Connection.ID != n.ID {
				busy = max(busy, time.Duration(w.Held-now)*time.Millisecond)
			}
		}
		return changed || len(c.Wills) != before
	})
	return busy, wrap("arrive", err)
}

// errText reports a will whose texts cannot be stored.
var errText = errors.New("not valid UTF-8")

func (s *store) Put(ctx context.Context, w Will) error {
	for _, text := range []string{
		w.ID, w.Topic, w.Event, w.Node, w.Connection.ID, w.Connection.Subject, w.Connection.ClientID,
	} {
		if !utf8.ValidString(text) {
			return wrap("put", errText)
		}
	}
	var failed error
	err := s.change(ctx, keyOf(w.Topic, w.Connection), func(c *client, now int64) bool {
		failed = nil
		if c.Newest == "" {
			c.arrive(w.Connection, now)
		}
		if c.Newest != w.Connection.ID {
			failed = ErrFenced
			return false
		}
		for i := range c.Wills {
			if old := &c.Wills[i]; old.ID == w.ID {
				if old.Held > now {
					failed = ErrRunning
					return false
				}
				*old = held{Will: w}
				return true
			}
		}
		c.Wills = append(c.Wills, held{Will: w})
		return true
	})
	if err == nil {
		err = failed
	}
	return wrap("put", err)
}

func (s *store) Delete(ctx context.Context, topic string, n Connection, ids ...string) error {
	return wrap("delete", s.change(ctx, keyOf(topic, n), func(c *client, _ int64) bool {
		before := len(c.Wills)
		c.Wills = slices.DeleteFunc(c.Wills, func(w held) bool {
			return w.Connection.ID == n.ID && slices.Contains(ids, w.ID)
		})
		return len(c.Wills) != before
	}))
}

func (s *store) End(ctx context.Context, topic string, n Connection, ids ...string) error {
	return wrap("end", s.change(ctx, keyOf(topic, n), func(c *client, now int64) bool {
		return c.end(now, func(w *held) (at int64, ok bool) {
			return now, w.Connection.ID == n.ID && slices.Contains(ids, w.ID)
		})
	}))
}

// end makes the wills due for which ended returns true, with the time at which their connections
// ended. Those of connections that are not the newest are removed.
func (c *client) end(now int64, ended func(w *held) (at int64, ok bool)) (changed bool) {
	for i := range c.Wills {
		w := &c.Wills[i]
		if w.Due != 0 {
			continue
		}
		if at, ok := ended(w); ok {
			w.Due = at + w.After.Milliseconds()
			changed = true
		}
	}
	return c.prune(now) || changed
}

// prune removes the wills of older connections that are due and not claimed.
func (c *client) prune(now int64) bool {
	before := len(c.Wills)
	c.Wills = slices.DeleteFunc(c.Wills, func(w held) bool {
		return w.Due != 0 && w.Connection.ID != c.Newest && w.Held <= now
	})
	return len(c.Wills) != before
}

func (s *store) Lease(ctx context.Context, node string, d time.Duration) (kept bool, err error) {
	kept, err = s.table.Lease(ctx, node, d)
	return kept, wrap("lease", err)
}

// Expire makes the wills of nodes due, as long as their lease has ended. A node that was away may
// have a lease again at any time, and stores its wills after that. So the entries are read before
// the leases are: a will that was stored with a newer lease has changed its entry, which is not
// replaced then.
//
// To read the ended leases may take a request for each of them. So they are read once for many
// entries, whatever their nodes.
func (s *store) Expire(ctx context.Context) error {
	leases, err := s.table.Ended(ctx)
	for err == nil && len(leases) > 0 {
		leases, err = s.expire(ctx, leases)
	}
	return wrap("expire", err)
}

// expire makes some wills due of nodes whose lease has ended, and drops the leases of nodes without
// wills. It returns the leases of the nodes that may have more.
func (s *store) expire(ctx context.Context, leases []Lease) (left []Lease, err error) {
	leases, keys, err := s.keysOf(ctx, leases)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	found := make([]*reading, len(keys))
	err = each(keys, func(i int) (err error) {
		found[i], err = s.read(ctx, keys[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	ended, err := s.table.Ended(ctx)
	if err != nil {
		return nil, err
	}
	ends := make(map[string]int64, len(ended))
	for _, l := range ended {
		ends[l.Node] = l.End.UnixMilli()
	}
	endOf := func(w *held) (at int64, ok bool) {
		at, ok = ends[w.Node]
		return at, ok
	}
	err = each(keys, func(i int) error {
		r := found[i]
		if !r.end(r.now, endOf) {
			return nil
		}
		_, err := s.replace(ctx, keys[i], r) // if it was changed meanwhile, it is read again
		return err
	})
	return slices.DeleteFunc(leases, func(l Lease) bool {
		_, ok := ends[l.Node]
		return !ok // it has a lease again
	}), err
}

// keysOf returns the keys of at most expireAtOnce entries of nodes whose lease has ended. It drops
// the leases of those that have none, and returns the others.
func (s *store) keysOf(ctx context.Context, leases []Lease) (left []Lease, keys []string, err error) {
	seen := make(map[string]bool)
	for i, l := range leases {
		most := expireAtOnce - len(keys)
		if most == 0 {
			return append(left, leases[i:]...), keys, nil
		}
		ofNode, err := s.table.OfNode(ctx, l.Node, most)
		if err != nil {
			return nil, nil, err
		}
		if len(ofNode) == 0 {
			if err := s.table.Drop(ctx, l.Node); err != nil {
				return nil, nil, err
			}
			continue
		}
		left = append(left, l)
		for _, key := range ofNode {
			if !seen[key] { // it may have wills of more than one node
				seen[key] = true
				keys = append(keys, key)
			}
		}
	}
	return left, keys, nil
}

func (s *store) Claim(ctx context.Context, most int, hold time.Duration) ([]Will, error) {
	var mu sync.Mutex
	var claimed []Will
	for idle := 0; len(claimed) < most && idle < 2; {
		before := len(claimed)
		keys, err := s.table.Due(ctx, most-len(claimed))
		if err == nil {
			err = each(keys, func(i int) error {
				wills, err := s.claim(ctx, keys[i], hold)
				mu.Lock()
				defer mu.Unlock()
				claimed = append(claimed, wills...)
				return err
			})
		}
		if err != nil || len(keys) == 0 {
			return claimed, wrap("claim", err)
		}
		if len(claimed) == before {
			idle++ // arrivals that are too old, or a table that follows its database late
		}
	}
	return claimed, nil
}

// claim claims the wills of one entry that are due, and removes those that nobody needs.
func (s *store) claim(ctx context.Context, key string, hold time.Duration) (wills []Will, err error) {
	err = s.change(ctx, key, func(c *client, now int64) bool {
		wills = nil
		if c.Newest == "" {
			return false // it was removed meanwhile
		}
		changed := c.prune(now)
		before := len(c.Wills)
		c.Wills = slices.DeleteFunc(c.Wills, func(w held) bool {
			return w.Due != 0 && w.Held <= now && w.Due+s.keep.Milliseconds() <= now
		})
		changed = changed || len(c.Wills) != before
		for i := range c.Wills {
			if w := &c.Wills[i]; w.Due != 0 && w.Due <= now && w.Held <= now {
				w.Held = now + hold.Milliseconds()
				wills = append(wills, w.Will)
			}
		}
		return changed || len(wills) > 0 || len(c.Wills) == 0
	})
	if err != nil {
		return nil, err // a claim that was stored nevertheless ends by itself
	}
	return wills, nil
}

// each calls f for the indices of all keys, several at a time, and returns the first error.
func each(keys []string, f func(i int) error) error {
	if len(keys) == 1 {
		return f(0)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	next := 0
	for range min(parallel, len(keys)) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := i >= len(keys) || first != nil
				mu.Unlock()
				if stop {
					return
				}
				if err := f(i); err != nil {
					mu.Lock()
					first = err
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return first
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("will: %s: %w", what, err)
}
