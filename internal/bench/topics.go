package main

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// publishersOfTopics is how many broadcasts are in flight, each to another topic.
const publishersOfTopics = 4

// topics makes each client join many topics and broadcasts to one topic after the other. It
// measures the cost of a delivery, and the memory of a channel.
//
// Client i joins the topics from i times Channels on, modulo their number, so that all topics have
// the same number of members.
func (l *load) topics() error {
	if l.s.Channels > l.s.Topics || l.s.Clients*l.s.Channels%l.s.Topics != 0 {
		return fmt.Errorf("%d clients with %d channels do not share %d topics", l.s.Clients, l.s.Channels, l.s.Topics)
	}
	for i := range l.s.Clients {
		c, err := l.d.connect(l.addr, sourceOf(i))
		if err != nil {
			return fmt.Errorf("client %d: %w", i, err)
		}
		l.conns = append(l.conns, c)
	}
	before, err := l.state("?gc")
	if err != nil {
		return err
	}
	for i, c := range l.conns {
		for k := range l.s.Channels {
			if err := l.d.exchange(c, l.d.join(strconv.Itoa(l.topicOf(i, k))), l.d.answers); err != nil {
				return fmt.Errorf("client %d, channel %d: %w", i, k, err)
			}
		}
	}
	after, err := l.state("?gc")
	if err != nil {
		return err
	}
	l.result.Bytes = (after.RSS - before.RSS) / (l.s.Clients * l.s.Channels)
	return l.broadcastToTopics()
}

// topicOf returns the k-th topic of a client.
func (l *load) topicOf(client, k int) int { return (client*l.s.Channels + k) % l.s.Topics }

// publisher broadcasts one message at a time. Its messages have the numbers that leave its own when
// divided by publishersOfTopics.
type publisher struct {
	sent, received atomic.Int64
	delivered      chan struct{}
}

func (l *load) broadcastToTopics() error {
	members := int64(l.s.Clients * l.s.Channels / l.s.Topics)
	publishers := make([]*publisher, publishersOfTopics)
	for i := range publishers {
		publishers[i] = &publisher{delivered: make(chan struct{}, 1)}
	}
	var wrong atomic.Int64
	failed := make(chan error, len(l.conns)+len(publishers))
	for _, c := range l.conns {
		go func() { // until the process ends
			last := make([]int, len(publishers))
			for {
				frame, err := l.d.read(c)
				if err != nil {
					failed <- fmt.Errorf("subscriber: %w", err)
					return
				}
				l.d.delivered(frame, func(m []byte) {
					n := number(m)
					if n < 0 {
						return
					}
					p := publishers[n%len(publishers)]
					if n/len(publishers) < last[n%len(publishers)] {
						wrong.Add(1)
					}
					last[n%len(publishers)] = n/len(publishers) + 1
					if p.received.Add(1)%members == 0 {
						p.delivered <- struct{}{}
					}
				})
			}
		}()
	}
	err := l.measure(func(d time.Duration) (int, error) {
		end, begun := time.Now().Add(d), total(publishers)
		var work sync.WaitGroup
		for i, p := range publishers {
			work.Go(func() {
				if err := l.publishToTopics(i, p, end); err != nil {
					failed <- err
				}
			})
		}
		work.Wait()
		select {
		case err := <-failed:
			return 0, err
		default:
			return total(publishers) - begun, nil
		}
	})
	l.result.Duplicates = int(wrong.Load())
	for _, p := range publishers {
		l.result.Missing += int(p.sent.Load()*members - p.received.Load())
	}
	return err
}

func total(publishers []*publisher) (received int) {
	for _, p := range publishers {
		received += int(p.received.Load())
	}
	return received
}

// publishToTopics broadcasts until the end, each time to another topic, and waits for all members.
func (l *load) publishToTopics(first int, p *publisher, end time.Time) error {
	const stride = 7919 // a prime, so that neighbouring topics do not follow one another
	for time.Now().Before(end) {
		n := int(p.sent.Add(1))
		i := (first + n*stride) % (l.s.Clients * l.s.Channels)
		client, k := i/l.s.Channels, i%l.s.Channels
		body := l.body(n*publishersOfTopics+first, nil)
		begun := time.Now()
		if err := l.conns[client].Send(l.d.publish(nil, strconv.Itoa(l.topicOf(client, k)), body)); err != nil {
			return err
		}
		select {
		case <-p.delivered:
			l.latency.add(time.Since(begun))
		case <-time.After(10 * time.Second):
			return nil // what is missing is counted
		}
	}
	return nil
}

// sourceOf returns the local address of a client, or nil for the usual one. A loopback address has
// about 28,000 ports for connections to one server.
func sourceOf(client int) net.Addr {
	const perAddress = 20_000
	if client < perAddress {
		return nil
	}
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+client/perAddress))}
}
