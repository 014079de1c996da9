package presence

import (
	"slices"
	"sync"
	"weak"

	"bennu.example/serializer"
)

// listingFrom is the number of keys from which a room has a listing. Smaller rooms are encoded for
// each Push, which costs less than a listing.
const listingFrom = 64

// listing is the encoded state of a room. While keys only join, each Push encodes those that joined
// since the Push before. So n clients that join a room cost n encoded entries instead of n². Pushes
// between two changes share one payload.
//
// The room refers to it weakly, because it takes as much memory as the presences themselves. It
// lives until the first garbage collection in which no Push uses it.
type listing struct {
	mu      sync.Mutex // taken before the shard's lock
	json    []byte     // the payload of presence_state; readers hold mu, since it is extended in place
	last    int64      // sequence number of the last key in json
	payload serializer.Payload
}

// encodedState returns the payload of presence_state for a topic.
func (s *shard) encodedState(topic string) serializer.Payload {
	s.mu.Lock()
	r := s.rooms[topic]
	if r == nil || r.keys.len() < listingFrom {
		var all []*entry
		if r != nil {
			all = r.after(0)
		}
		s.mu.Unlock()
		return encoded(appendList(make([]byte, 0, sizeOf(all)), all))
	}
	l := r.listing.Value()
	if l == nil {
		l = new(listing)
		r.listing = weak.Make(l)
	}
	s.mu.Unlock()

	l.mu.Lock()
	defer l.mu.Unlock()
	joined := s.unlisted(r, l)
	if len(joined) > 0 || l.payload.IsZero() {
		l.extend(joined)
		l.payload = encoded(l.json)
	}
	return l.payload
}

// unlisted returns the entries of r that l must be extended by. If there was another change than a
// new key since the last call, it clears l and returns all. The caller holds l's lock.
func (s *shard) unlisted(r *room, l *listing) []*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if self := weak.Make(l); r.listing != self {
		r.listing = self
		l.json, l.last, l.payload = l.json[:0], 0, serializer.Payload{}
	}
	joined := r.after(l.last)
	l.last = r.keys.seq
	return joined
}

// extend adds entries to the encoded state. The caller holds the lock.
func (l *listing) extend(joined []*entry) {
	switch {
	case len(l.json) <= len("{}"):
		l.json = appendList(slices.Grow(l.json[:0], sizeOf(joined)), joined)
	case len(joined) > 0:
		l.json[len(l.json)-1] = ',' // instead of the closing brace
		l.json = append(appendMembers(l.json, joined), '}')
	}
}
