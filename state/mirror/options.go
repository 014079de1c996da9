package mirror

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"bennu.example/channel"
)

// Opener is a client that channels are made of: a *socket.Client.
type Opener interface {
	Channel(topic string, params any) *channel.Client
}

// Mode says whether an object must exist when it is opened.
type Mode string

// The modes of Options. A mirror that was opened with New joins with Existing from then on. If the
// connection is lost before the first reply, New may fail although this client has made the object.
const (
	Open     Mode = "open"     // it may exist
	Existing Mode = "existing" // it must exist: ErrNotFound
	New      Mode = "new"      // it must not exist, and is created: ErrExists
)

// Options configures a mirror. The zero value and nil mean the whole object, which may exist.
type Options struct {
	// Mode says whether the object must exist. Empty means Open.
	Mode Mode
	// Value is the value of a document that opening it creates. Nil means that only the modes New and
	// TTL create it, with the value {}.
	Value any
	// TTL is the lifetime of an object that opening it creates. Zero means that it stays, and that
	// Open creates none.
	TTL time.Duration
	// Prefix, or From and To, are the part of a map that is mirrored: the keys with that prefix, or
	// those not before From and before To. Empty means no bound.
	Prefix, From, To string
	// Path is the part of a tree that is mirrored: what is at and below this path. Empty means all.
	Path string
	// First, or Last, is how many items are mirrored: the first or the last ones of that part. Zero
	// means all. As items are put and deleted, others leave the copy and come into it.
	First, Last int
	// Query is the name of a query that the server has, and Args are its arguments: the items that
	// match are mirrored. It excludes First and Last. Empty means no query.
	//
	// A mirror with First, Last or Query, or of what a server hides in part, begins with a Reset after
	// each interruption. It does not repeat a write whose reply was lost: the error wraps
	// history.ErrUncertain.
	Query string
	Args  any
	// Keep makes the store of socket.ClientConfig.Offline keep the copy with its position: once a
	// second while it changes, by socket.Client.Persist, and when the mirror is closed. If the store
	// has a copy of the same topic, keys and query, the mirror is open at once with that. It is Stale
	// until the server has sent what was missed. Forget, the default, and a client without Offline
	// store nothing.
	//
	// With KeepUpdating, socket.Client.Restore opens the mirror in the next process without its user.
	// At most 64 topics can have this policy; others are kept. If the server refuses the object, ends
	// the channel with a reason, or denies the client, the stored copy is removed.
	Keep Policy
	// Restore is what Save returned, from a mirror of the same topic and keys. The copy is there from
	// the beginning, and continues at its position. Nil means an empty copy.
	Restore []byte
}

// Policy says what remains of a mirror that is closed.
type Policy uint8

// The policies of Close.
const (
	Forget       Policy = iota // leave the topic, and drop the copy
	Keep                       // leave the topic. The copy stays as it is
	KeepUpdating               // end the iterators only. The copy follows the object
)

// keyRange is the part of the keys that a mirror has.
type keyRange struct {
	Prefix string `json:"prefix,omitempty"`
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
	Path   string `json:"path,omitempty"`
	First  int    `json:"first,omitempty"`
	Last   int    `json:"last,omitempty"`
}

// has reports whether the mirror has a key.
func (m *Mirror) has(key string) bool {
	r := &m.keys
	key, from, to, path := m.local(key), m.local(r.From), m.local(r.To), m.local(r.Path)
	return key >= from && (to == "" || key < to) && strings.HasPrefix(key, r.Prefix) &&
		(path == "" || key == path || strings.HasPrefix(key, path+separator))
}

// joinParams is the member "$state" of a join.
type joinParams struct {
	Since string          `json:"since,omitempty"`
	Mode  Mode            `json:"mode,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
	TTL   float64         `json:"ttl,omitempty"` // seconds
	Keys  *keyRange       `json:"keys,omitempty"`
	Query *query          `json:"query,omitempty"`
}

// query is a query by its name.
type query struct {
	Name string          `json:"name"`
	Args json.RawMessage `json:"args,omitempty"`
}

func (o *Options) joinParams() (p joinParams, err error) {
	p.Mode, p.TTL = o.Mode, o.TTL.Seconds()
	if o.Value != nil {
		if p.Value, err = json.Marshal(o.Value); err != nil {
			return p, fmt.Errorf("the initial value: %w", err)
		}
	}
	if o.Query != "" {
		p.Query = &query{Name: o.Query}
		if o.Args != nil {
			if p.Query.Args, err = json.Marshal(o.Args); err != nil {
				return p, fmt.Errorf("the arguments of the query: %w", err)
			}
		}
	}
	if keys := o.keys(); keys != (keyRange{}) {
		p.Keys = &keys
	}
	return p, nil
}

func (o *Options) keys() keyRange {
	return keyRange{o.Prefix, o.From, o.To, o.Path, o.First, o.Last}
}
