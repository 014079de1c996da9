package socket

import (
	"context"

	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

const (
	// maxPeerQueue bounds the messages of other nodes that wait for long-poll sessions of this one, in
	// bytes.
	maxPeerQueue = 16 << 20
	eventPeer    = "longpoll"
	// peerPrefix, followed by a node's address, is the control topic on which the node receives.
	peerPrefix = "bennu:longpoll:"
)

// longPollPeers sends the messages between the long-poll transports of a cluster's nodes through
// the PubSub. It implements longpoll.Peers.
type longPollPeers struct{ ps *pubsub.PubSub }

// Send is part of longpoll.Peers.
func (p longPollPeers) Send(address string, data []byte) error {
	return p.ps.Control().Broadcast(context.Background(), peerPrefix+address, eventPeer, serializer.Binary(data))
}

// Listen is part of longpoll.Peers.
func (p longPollPeers) Listen(address string, receive func(data []byte)) (stop func()) {
	l := new(peerListener)
	l.in.Init(maxPeerQueue, receive)
	at := p.ps.Control().Subscribe(peerPrefix+address, l)
	return func() {
		at.Cancel()
		l.in.Close(false)
		l.in.Wait()
	}
}

// peerListener enqueues the messages, because handling them publishes broadcasts.
type peerListener struct{ in mailbox.Mailbox[[]byte] }

func (l *peerListener) Deliver(b *pubsub.Broadcast) error {
	if b.Event != eventPeer || !b.Payload.IsBinary() {
		return nil
	}
	data := b.Payload.Bytes()
	return l.in.Enqueue(data, len(data)) // a message without room is lost; the other node notices
}
