package channeltest

import (
	"fmt"
	"strings"
	"sync"

	"bennu.example/serializer"
)

// topicSocket is the topic of a socket's own channel.
const topicSocket = "$socket"

// maxFrames is how many frames a failure message has.
const maxFrames = 20

// frameLog keeps the last frames of a client.
type frameLog struct {
	mu   sync.Mutex
	last []string
}

func (l *frameLog) add(arrow string, m *serializer.Message) {
	switch {
	case m.Topic == serializer.TopicPhoenix: // a heartbeat
		return
	case m.Topic == topicSocket && m.Kind != serializer.KindPush: // the server's time and limits
		return
	}
	what := m.Event
	if m.Kind == serializer.KindReply {
		what += " " + m.Status
	}
	ref := ""
	if m.Ref != "" {
		ref = " ref " + strings.Trim(string(m.Ref), `"`)
	}
	line := fmt.Sprintf("%s %s %s %s%s", arrow, m.Topic, what, textOf(m.Payload), ref)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.last) == maxFrames {
		l.last = append(l.last[:0], l.last[1:]...)
	}
	l.last = append(l.last, line)
}

// String returns a paragraph of a failure message.
func (l *frameLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.last) == 0 {
		return "\tno frames were sent or received"
	}
	return "\tlast frames (-> sent, <- received):\n\t\t" + strings.Join(l.last, "\n\t\t")
}

// recorder is a serializer.Serializer of a client that adds the frames to a log.
type recorder struct {
	serializer.Serializer
	log *frameLog
}

func recorded(s serializer.Serializer, log *frameLog) serializer.Serializer {
	if s == nil {
		s = serializer.V2()
	}
	return &recorder{s, log}
}

// Append is part of serializer.Serializer.
func (r *recorder) Append(dst []byte, m *serializer.Message) (serializer.Op, []byte, error) {
	op, data, err := r.Serializer.Append(dst, m)
	if err == nil {
		r.log.add("->", m)
	}
	return op, data, err
}

// ParseClient is part of serializer.Serializer.
func (r *recorder) ParseClient(op serializer.Op, data []byte) (serializer.Message, error) {
	m, err := r.Serializer.ParseClient(op, data)
	if err == nil {
		r.log.add("<-", &m)
	}
	return m, err
}
