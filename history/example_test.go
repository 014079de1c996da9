package history_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"bennu.example/history"
	"bennu.example/serializer"
)

// A reader that was away continues after the last record that it has.
func ExampleMemory() {
	ctx := context.Background()
	var log history.Log = history.NewMemory(history.MemoryConfig{MaxBytes: 16 << 20})
	say := func(body string) history.Position {
		r, err := log.Append(ctx, "room:lobby", history.Record{
			Event: "new_msg", Payload: serializer.Value(map[string]string{"body": body}),
		}, history.Keep{Count: 2})
		if err != nil {
			fmt.Println(err)
		}
		return r.Position
	}
	read := func(after history.Position) {
		b, err := log.Read(ctx, "room:lobby", after, 100)
		for _, r := range b.Records {
			fmt.Printf("%s %s\n", r.Event, r.Payload.Bytes())
		}
		if errors.Is(err, history.ErrTrimmed) {
			fmt.Println("too much was missed")
		}
	}

	last := say("hello")
	say("are you there?")
	say("no")
	read(last)
	say("what a pity") // only two records are kept
	read(last)
	// Output:
	// new_msg {"body":"are you there?"}
	// new_msg {"body":"no"}
	// too much was missed
}

func ExampleRules() {
	rules := history.Rules{
		"room:*":     {Events: []string{"new_msg"}, Age: 24 * time.Hour},
		"room:tmp:*": {Events: []string{}}, // none
		"alerts":     {Count: 1000},
	}
	fmt.Println(rules.Check())
	for _, topic := range []string{"room:1", "room:tmp:1", "alerts", "news"} {
		k, ok := rules.For(topic, "new_msg")
		fmt.Println(topic, ok, k.Count, k.Age)
	}
	fmt.Println(history.Keep{}.Has("new_msg"), history.Keep{}.Has("presence_diff"))
	// Output:
	// <nil>
	// room:1 true 256 24h0m0s
	// room:tmp:1 false 0 0s
	// alerts true 1000 1h0m0s
	// news false 0 0s
	// true false
}

// Clients may compare the offsets of two positions whose epochs are equal.
func ExampleParsePosition() {
	p, err := history.ParsePosition("q7hx2c9k-129-0m0a")
	fmt.Println(p.Epoch(), p.Offset(), p.Tag(), err)
	_, err = history.ParsePosition("129")
	fmt.Println(errors.Is(err, history.ErrPosition), err)
	// Output:
	// q7hx2c9k 129 0m0a <nil>
	// true history: invalid position "129"
}

// A log makes the position of a new record. A record's encoding is the same in all logs.
func ExampleParseRecord() {
	p, err := history.NewPosition("q7hx2c9k", 129, history.NewTag())
	if err != nil {
		fmt.Println(err)
	}
	r := history.Record{Position: p, Event: "new_msg", Payload: serializer.Value(map[string]int{"n": 1})}
	data, err := r.AppendBinary(nil)
	if err != nil {
		fmt.Println(err)
	}
	r, err = history.ParseRecord(data)
	fmt.Println(r.Position == p, r.Event, string(r.Payload.Bytes()), err)
	// Output:
	// true new_msg {"n":1} <nil>
}

// quota is a log that stores no more than a number of records. It wraps a log of the same process.
type quota struct {
	history.Local
	most uint64
}

func (q quota) Append(ctx context.Context, topic string, r history.Record, k history.Keep) (history.Record, error) {
	if q.Health().Appended >= q.most {
		return history.Record{}, history.ErrFull
	}
	return q.Local.Append(ctx, topic, r, k)
}

// A type that embeds a log can change one of its methods.
func ExampleLocal() {
	ctx := context.Background()
	log := quota{history.NewMemory(history.MemoryConfig{}), 2}
	for range 3 {
		_, err := log.Append(ctx, "t", history.Record{Event: "e"}, history.Keep{})
		fmt.Println(err)
	}
	var h history.Health = log.Health()
	fmt.Println(h.Connected, h.Appended)
	// Output:
	// <nil>
	// <nil>
	// history: the log has no room for the record
	// true 2
}

// A client that shows older messages reads page by page, from the end.
func ExampleBatch() {
	ctx := context.Background()
	log := history.NewMemory(history.MemoryConfig{})
	for i := range 5 {
		_, _ = log.Append(ctx, "t", history.Record{Event: fmt.Sprint("event ", i)}, history.Keep{})
	}
	page := history.Batch{More: true}
	for page.More {
		var before history.Position // zero: from the end
		if len(page.Records) > 0 {
			before = page.Records[0].Position
		}
		page, _ = log.Before(ctx, "t", before, 2)
		for _, r := range page.Records {
			fmt.Print(r.Event, "; ")
		}
		fmt.Println(page.More)
	}
	// Output:
	// event 3; event 4; true
	// event 1; event 2; true
	// event 0; false
}

// PubSub runs a log with an Inbox, which receives the records of the watched topics. A Memory feeds
// nothing, because PubSub delivers what Append returns.
func ExampleInbox() {
	log := history.NewMemory(history.MemoryConfig{})
	ctx, stop := context.WithCancel(context.Background())
	stop()
	err := log.Run(ctx, history.Inbox{
		Record:    func(topic string, r history.Record) { fmt.Println(topic, r.Event) },
		Forgotten: func(topic string) { fmt.Println("forgotten:", topic) },
		Gap:       func(reason error) { fmt.Println("records may have been missed:", reason) },
	})
	fmt.Println(err)
	// Output:
	// <nil>
}
