package broker

import "context"

// Engine is what differs between engines.
type Engine interface {
	// Channel is what the engine calls a topic, a node or all nodes. Different arguments have different channels.
	Channel(kind Kind, name string) string

	// Dial connects. In may be called until the connection is closed. Dial returns soon after ctx has ended, and nothing is left of it when it
	// returns an error.
	Dial(ctx context.Context, in In) (Conn, error)
}

// Kind is a kind of channel.
type Kind byte

// The kinds of channels, as letters that may stand in their names.
const (
	Topic Kind = 't'
	Node  Kind = 'n'
	All   Kind = 'a' // there is one, named all
)

// In is where a connection brings what it receives.
type In struct {
	// Data takes a message of a channel that was subscribed to, at once, in order and one at a time. It keeps data.
	Data func(data []byte)
	// Gap tells that messages were lost although the connection goes on. It may be called from any goroutine.
	Gap func(reason error)
	// Changed tells that the path to other nodes has changed: messages may have been lost until now, and may still be for a moment.
	// Calling it is like calling Gap at once and again somewhat later.
	Changed func(reason error)
}

// Conn is a connection to an engine. Send and MaxMessage are called by one goroutine.
type Conn interface {
	// Send does what the batch says, in the order of its fields, and returns when the engine has answered that all of it is done. An empty batch
	// just gets an answer. It returns soon after ctx, which has a deadline, has ended or the connection was lost.
	Send(ctx context.Context, b *Batch) error

	// MaxMessage is how long a message may be; 0 if there is no bound.
	MaxMessage() int

	// Lost gets the reason when the connection is found to be lost.
	Lost() <-chan error

	// Close ends the connection, without waiting for the engine. When it returns nothing of it is left and In is not called any more.
	Close()
}

// Batch is what is sent together. It is the connection's until Send returns, but for the messages' data, which may be kept and not changed.
type Batch struct {
	Subscribe   []string // channels; those that are subscribed to already stay so
	Unsubscribe []string // likewise
	Messages    []Message
	// Check asks for more than an answer: Send also returns an error if this is not the place where all nodes meet, such as a
	// server that has become a replica. The relay sets it in a connection's first batch and then every Config.Ping.
	Check bool

	size   int  // what the messages count for in the queue
	notice bool // the first message tells that messages may have been lost
	probe  bool // the last message is a probe
}

// Message is bytes for who subscribed to a channel.
type Message struct {
	Channel string
	Data    []byte
}

// size is what a message counts for in the queue.
func (m Message) size() int { return len(m.Channel) + len(m.Data) + overhead }

func (b *Batch) reset() {
	clear(b.Messages)
	*b = Batch{Subscribe: b.Subscribe[:0], Unsubscribe: b.Unsubscribe[:0], Messages: b.Messages[:0]}
}

func (b *Batch) empty() bool { return len(b.Subscribe)+len(b.Unsubscribe)+len(b.Messages) == 0 }
