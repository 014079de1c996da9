package state

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"bennu.example/history"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// The events that clients receive.
const (
	eventPut    = "put"
	eventDel    = "del"
	eventBatch  = "batch"
	eventItems  = "items"
	eventSynced = "synced"

	eventMessage = "message" // of a stream
)

// The pushes of clients.
const (
	pushPut    = "put"
	pushMerge  = "merge"
	pushDel    = "del"
	pushAdd    = "add"
	pushInsert = "insert"
	pushMove   = "move"
	pushBatch  = "batch"
	pushRead   = "read"
	pushQuery  = "query"
	pushRemove = "remove"

	pushPublish  = "publish"
	pushSnapshot = "snapshot"
)

// pushes are all names that a handler answers, also those of kinds of objects to come.
var pushes = []string{
	pushPut, pushMerge, pushDel, pushAdd, pushInsert, pushMove, pushBatch, pushRead, pushQuery, pushRemove,
	pushPublish, pushSnapshot,
}

// kind is a kind of object as clients see it.
type kind struct {
	name     string
	document bool     // it has one item, without a key
	list     bool     // the server makes the keys, in the order of the items
	tree     bool     // keys are paths
	ops      []string // what clients may push, also in a batch
}

var (
	kindDocument = &kind{name: "document", document: true, ops: []string{pushPut, pushMerge, pushDel}}
	kindMap      = &kind{name: "map", ops: []string{pushPut, pushMerge, pushDel, pushAdd}}
	kindList     = &kind{name: "list", list: true, ops: []string{pushPut, pushDel, pushInsert, pushMove}}
	kindTree     = &kind{name: "tree", tree: true, ops: []string{pushPut, pushMerge, pushDel, pushAdd}}
	kindStream   = &kind{name: "stream"}
)

func (k *kind) has(op string) bool {
	for _, name := range k.ops {
		if name == op {
			return true
		}
	}
	return false
}

// rawPayload returns the payload of JSON text.
func rawPayload(text []byte) serializer.Payload {
	var p serializer.Payload
	_ = p.UnmarshalJSON(text) // it never fails
	return p
}

// appendMember appends a name, after a comma if one is needed.
func appendMember(dst []byte, name string) []byte {
	if last := dst[len(dst)-1]; last != '{' {
		dst = append(dst, ',')
	}
	dst = append(dst, '"')
	dst = append(dst, name...)
	return append(dst, '"', ':')
}

// appendPosition appends the member "$pos", unless p is zero.
func appendPosition(dst []byte, p history.Position) []byte {
	if p.IsZero() {
		return dst
	}
	dst = append(appendMember(dst, "$pos"), '"')
	dst, _ = p.AppendText(dst) // it never fails
	return append(dst, '"')
}

// appendItem appends the members of an item. In an entry of a list, a deletion is named by its
// reason. The key of a document is left out.
func appendItem(dst []byte, it *Item, entry bool) []byte {
	if it.Key != "" || it.Under {
		dst = serializer.AppendString(appendMember(dst, "key"), wireKey(it.Key))
	}
	dst = strconv.AppendUint(appendMember(dst, "rev"), it.Rev, 10)
	if it.Deleted == "" {
		dst = append(appendMember(dst, "value"), it.Value...)
		if entry && it.From != "" {
			dst = serializer.AppendString(appendMember(dst, "from"), it.From)
		}
		return dst
	}
	name := "reason"
	if entry {
		name = "del"
	}
	dst = serializer.AppendString(appendMember(dst, name), it.Deleted)
	if it.Under {
		dst = append(appendMember(dst, "under"), "true"...)
	}
	return dst
}

// appendEntries appends the member "items". With a time, each item that expires has the seconds
// that are left.
func appendEntries(dst []byte, items []Item, now time.Time) []byte {
	dst = append(appendMember(dst, "items"), '[')
	for i := range items {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendItem(append(dst, '{'), &items[i], true)
		if !now.IsZero() {
			dst = appendExpiry(dst, items[i].Expires, now)
		}
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

// appendExpiry appends the member "expires_in", unless at is zero.
func appendExpiry(dst []byte, at, now time.Time) []byte {
	if at.IsZero() {
		return dst
	}
	left := max(at.Sub(now), 0).Round(time.Millisecond)
	return strconv.AppendFloat(appendMember(dst, "expires_in"), left.Seconds(), 'f', -1, 64)
}

// frame is an event for the clients of an object, with how it is sent to slow ones.
type frame struct {
	b   *pubsub.Broadcast
	how transport.Delivery
}

// changeFrame returns the event of a change: put or del for one item, batch for several, and synced
// for none.
func changeFrame(topic string, items []Item, pos history.Position) frame {
	size := 64
	for i := range items {
		size += len(items[i].Key) + len(items[i].Value) + 48
	}
	text := appendPosition(append(make([]byte, 0, size), '{'), pos)
	f := frame{b: &pubsub.Broadcast{Topic: topic, Event: eventSynced}}
	f.how.Policy = transport.Disconnect
	switch {
	case len(items) == 1:
		it := &items[0]
		text = appendItem(text, it, false)
		f.b.Event = eventPut
		if it.Deleted != "" {
			f.b.Event = eventDel
		}
		// A newer event of the key replaces one that still waits. It is sent at its own, later place, so
		// that positions still grow. It would not undo the deletion of what was below.
		if !it.Under {
			f.how = transport.Delivery{Policy: transport.KeepLatest, Key: transport.NewKey(topic, eventPut, it.Key)}
		}
	case len(items) > 1:
		f.b.Event = eventBatch
		text = appendEntries(text, items, time.Time{})
	}
	f.b.Payload = rawPayload(append(text, '}'))
	return f
}

// pageFrame returns the event of a page for one client.
func pageFrame(topic string, items []Item, pos history.Position) *pubsub.Broadcast {
	text := appendEntries(appendPosition([]byte{'{'}, pos), items, time.Time{})
	return &pubsub.Broadcast{Topic: topic, Event: eventItems, Payload: rawPayload(append(text, '}'))}
}

// errorReply returns the reply to a push or a join that failed, or false for an error that clients
// must not see.
func errorReply(err error, batch bool) (serializer.Payload, bool) {
	reply := map[string]any{}
	var conflict *ConflictError
	var limit *LimitError
	var wrong *invalidError
	switch {
	case errors.As(err, &conflict):
		reply["reason"], reply["rev"], reply["value"] = "conflict", conflict.Rev, json.RawMessage("null")
		if conflict.Value != nil {
			reply["value"] = json.RawMessage(conflict.Value)
		}
		if batch {
			reply["key"] = wireKey(conflict.Key)
		}
	case errors.As(err, &limit):
		reply["reason"], reply["max"] = "quota", limit.Max
		if limit.Err == ErrTooLarge {
			reply["reason"] = "too large"
		}
		if limit.After > 0 {
			reply["after_ms"] = limit.After.Milliseconds() + 1
		}
	case errors.As(err, &wrong):
		reply["reason"], reply["what"] = "invalid", wrong.what
	default:
		reason, ok := reasonOf(err)
		if !ok {
			return serializer.Payload{}, false
		}
		reply["reason"] = reason
	}
	return serializer.Value(reply), true
}

func reasonOf(err error) (string, bool) {
	for _, r := range []struct {
		err    error
		reason string
	}{
		{errPosition, "invalid position"},
		{ErrNotFound, "not found"},
		{ErrExists, "exists"},
		{ErrForbidden, "forbidden"},
		{ErrTooLarge, "too large"},
		{history.ErrTooLarge, "too large"},
		{ErrQuota, "quota"},
		{ErrInvalid, "invalid"},
		{errForgotten, "uncertain"},
		{history.ErrUnavailable, "unavailable"},
		{history.ErrUncertain, "unavailable"},
		{history.ErrFull, "unavailable"},
	} {
		if errors.Is(err, r.err) {
			return r.reason, true
		}
	}
	return "", false
}

// ok returns the reply of a push that succeeded.
func ok(text []byte) push.Reply { return push.OK(rawPayload(text)) }
