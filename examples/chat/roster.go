package main

import (
	"context"
	"maps"
	"sync"

	"github.com/google/uuid"

	"bennu.example/channel"
	"bennu.example/pubsub"
)

// roster knows who is in which room. It says so as Phoenix's presence does, so that a client's presence code understands it, but
// knows of this process only: package presence takes its place as soon as there is one.
// Its methods may be called from any goroutine.
type roster struct {
	ps    *pubsub.PubSub
	mu    sync.Mutex
	rooms map[string]map[*channel.Channel]tracked
}

type tracked struct {
	user string
	meta meta
}

// state is the payload of presence_state: by user, one meta for each of their channels.
type state map[string]entry

type entry struct {
	Metas []meta `json:"metas"`
}

type meta struct {
	Ref string `json:"phx_ref"`
}

// diff is the payload of presence_diff.
type diff struct {
	Joins  state `json:"joins"`
	Leaves state `json:"leaves"`
}

func newRoster(ps *pubsub.PubSub) *roster {
	return &roster{ps: ps, rooms: make(map[string]map[*channel.Channel]tracked)}
}

// track counts a channel among those that are here, and tells its room.
func (r *roster) track(c *channel.Channel, user string) error {
	t := tracked{user, meta{uuid.NewString()}}
	r.mu.Lock()
	room, ok := r.rooms[c.Topic()]
	if !ok {
		room = make(map[*channel.Channel]tracked)
		r.rooms[c.Topic()] = room
	}
	room[c] = t
	r.mu.Unlock()
	return r.tell(c, diff{Joins: t.state(), Leaves: state{}})
}

// untrack forgets a channel, and tells its room.
func (r *roster) untrack(c *channel.Channel) error {
	r.mu.Lock()
	room := r.rooms[c.Topic()]
	t, ok := room[c]
	delete(room, c)
	if len(room) == 0 {
		delete(r.rooms, c.Topic())
	}
	r.mu.Unlock()
	if !ok {
		return nil
	}
	return r.tell(c, diff{Joins: state{}, Leaves: t.state()})
}

// list is who is in a room.
func (r *roster) list(topic string) state {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := make(state)
	for t := range maps.Values(r.rooms[topic]) {
		s[t.user] = entry{append(s[t.user].Metas, t.meta)}
	}
	return s
}

// tell broadcasts from outside the channel, since one that was replaced or has crashed cannot.
func (r *roster) tell(c *channel.Channel, d diff) error {
	return r.ps.Broadcast(context.Background(), c.Topic(), "presence_diff", d)
}

func (t tracked) state() state { return state{t.user: {[]meta{t.meta}}} }
