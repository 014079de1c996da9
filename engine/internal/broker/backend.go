package broker

import "context"

// Backend implements what differs between engines.
type Backend interface {
	// Channel returns the engine's name for a topic, a node or all nodes. Different arguments must
	// have different names. It may be called from any goroutine.
	Channel(kind Kind, name string) string

	// Dial connects to the engine. The connection may call the functions of r until it is closed. Dial
	// must return soon after ctx has ended. If it returns an error, nothing of the connection may
	// remain.
	Dial(ctx context.Context, r Receiver) (Conn, error)
}

// Kind is a kind of channel.
type Kind byte

// The kinds of channels. Their values are letters that may be used in channel names.
const (
	Topic Kind = 't'
	Node  Kind = 'n'
	All   Kind = 'a' // the only channel of this kind is named "all"
)

// Receiver contains the functions that a connection calls when it receives something.
type Receiver struct {
	// Message receives a message of a subscribed channel. The connection must call it in order, one
	// call at a time, and must not use data afterwards. Message does not block.
	Message func(data []byte)
	// Gap reports that messages were lost although the connection still works. It may be called from
	// any goroutine.
	Gap func(reason error)
	// PathChanged reports that the path to other nodes has changed: messages may have been lost until
	// now, and some may still be lost for a moment. It has the effect of calling Gap now and again
	// after the path has settled.
	PathChanged func(reason error)
}

// Conn is a connection to an engine. Send and MaxMessage are called by one goroutine.
type Conn interface {
	// Send executes the batch in the order of its fields and returns when the engine has acknowledged
	// all of it. For an empty batch it only waits for an answer. It must return soon after ctx, which
	// has a deadline, has ended or the connection was lost.
	Send(ctx context.Context, b *Batch) error

	// MaxMessage returns the largest size of a message, or 0 if there is no limit.
	MaxMessage() int

	// Lost returns a channel that receives the reason when the connection is lost.
	Lost() <-chan error

	// Close ends the connection without waiting for the engine. After it has returned, nothing of the
	// connection remains, and the functions of its Receiver are not called anymore.
	Close()
}

// Batch is sent as a whole. The connection owns it until Send returns. The connection may keep the
// data of messages for longer, but must not change it.
type Batch struct {
	Subscribe   []string // channels; subscribing twice has no effect
	Unsubscribe []string // channels; an unknown channel has no effect
	Messages    []Message
	// Check requests more than an answer: Send must also return an error if the server is not the
	// place where all nodes meet, for example because it has become a replica. The broker sets Check
	// in the first batch of a connection and then every Config.Ping.
	Check bool

	size   int  // bytes of the messages that count against the queue
	notice bool // the first message reports that messages may have been lost
	probe  bool // the last message is a probe
}

// Message is published to the subscribers of a channel.
type Message struct {
	Channel string
	Data    []byte
}

// size returns the number of bytes by which a message counts against the queue.
func (m Message) size() int { return len(m.Channel) + len(m.Data) + overhead }

func (b *Batch) reset() {
	clear(b.Messages)
	*b = Batch{Subscribe: b.Subscribe[:0], Unsubscribe: b.Unsubscribe[:0], Messages: b.Messages[:0]}
}

func (b *Batch) empty() bool { return len(b.Subscribe)+len(b.Unsubscribe)+len(b.Messages) == 0 }
