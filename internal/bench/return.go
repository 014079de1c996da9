package main

import (
	"bytes"
	"fmt"
	"net"
	"strconv"

	"bennu.example/internal/wstest"
)

// recordedTopic returns the name of a topic whose messages are kept.
func recordedTopic(i int) string { return "rec-" + strconv.Itoa(i) }

// returns makes clients connect, join a topic with an old position, receive what they missed, and
// disconnect. With Stay, they keep their connections, and leave the topic instead.
func (l *load) returns() error {
	positions := make([]string, l.s.Topics)
	for i := range positions {
		var err error
		if positions[i], err = l.publishMissed(recordedTopic(i)); err != nil {
			return err
		}
	}
	return l.each(func() func(*wstest.Conn, string, int) error {
		return func(c *wstest.Conn, topic string, _ int) error {
			i, err := strconv.Atoi(topic)
			if err != nil {
				return err
			}
			if !l.s.Stay {
				if c, err = l.d.connect(l.addr, nil); err != nil {
					return err
				}
				defer reset(c)
			}
			if err := c.Send(l.d.recover(recordedTopic(i), positions[i])); err != nil {
				return err
			}
			if err := l.receiveMissed(c); err != nil || !l.s.Stay {
				return err
			}
			return l.d.exchange(c, l.d.leave(recordedTopic(i)), l.d.leaveReplies)
		}
	})
}

// publishMissed publishes the messages that the clients miss, and returns the position before them.
func (l *load) publishMissed(topic string) (position string, err error) {
	c, err := l.d.connect(l.addr, nil)
	if err != nil {
		return "", err
	}
	l.publishers = append(l.publishers, c) // it stays open, so that the topic stays in use
	if err := c.Send(l.d.recover(topic, "")); err != nil {
		return "", err
	}
	reply, err := l.d.read(c)
	if err == nil {
		position, err = l.d.position(reply)
	}
	for n := 0; n < l.s.Missed && err == nil; n++ {
		err = c.Send(l.d.publish(nil, topic, l.body(n, nil)))
	}
	if err != nil {
		return "", err
	}
	return position, l.receiveMissed(c)
}

// receiveMissed reads until all missed messages have arrived, and checks their order.
func (l *load) receiveMissed(c *wstest.Conn) error {
	for next := 0; next < l.s.Missed; {
		frame, err := l.d.read(c)
		if err != nil {
			return err
		}
		for rest := frame; bytes.Contains(rest, sequence); next++ {
			if n := number(rest); n != next {
				return fmt.Errorf("message %d came, want %d: %s", n, next, frame)
			}
			_, rest, _ = bytes.Cut(rest, sequence)
		}
	}
	return nil
}

// reset closes a connection without TIME_WAIT, of which the many connections would leave too many.
func reset(c *wstest.Conn) {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close() // all was received
}
