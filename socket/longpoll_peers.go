package socket

import (
	"context"

	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

const (
	// maxPeerQueue bounds what came from other nodes for long-poll sessions of this one and waits, in bytes. It is soon handed on.
	maxPeerQueue = 16 << 20
	eventPeer    = "longpoll"
	// peerPrefix and an address are the control topic on which a node receives.
	peerPrefix = "bennu:longpoll:"
)

// longPollPeers brings what the long-poll ends of a cluster's nodes say to each other to where it is meant for: as transport.Peers.
type longPollPeers struct{ ps *pubsub.PubSub }

// Send is part of transport.Peers.
func (p longPollPeers) Send(address string, data []byte) error {
	return p.ps.Control().Broadcast(context.Background(), peerPrefix+address, eventPeer, serializer.Binary(data))
}

// Listen is part of transport.Peers.
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

// peerListener queues what comes, as receiving it makes broadcasts.
type peerListener struct{ in mailbox.Mailbox[[]byte] }

func (l *peerListener) Deliver(b *pubsub.Broadcast) error {
	if b.Event != eventPeer || !b.Payload.IsBinary() {
		return nil
	}
	data := b.Payload.Bytes()
	return l.in.Enqueue(data, len(data)) // what finds no room is lost, which the other node finds out
}
