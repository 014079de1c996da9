package boltengine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/engine/boltengine"
	"bennu.example/history"
	"bennu.example/offline"
	"bennu.example/serializer"
	"bennu.example/state"
)

// A record survives a restart. Programs pass the log to pubsub.NewRecorded instead of calling it.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "history.db")

	var last history.Position // of a client
	for _, text := range []string{"hello", "still there?"} {
		engine, err := boltengine.New(boltengine.Config{Path: path})
		if err != nil {
			fmt.Println(err)
			return
		}
		log := engine.History()
		if !last.IsZero() {
			batch, err := log.Read(context.Background(), "room:lobby", last, 100)
			fmt.Println("missed after the restart:", len(batch.Records), err)
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- log.Run(ctx, history.Inbox{}) }() // PubSub.Run does it
		for !log.Health().Connected {
			runtime.Gosched()
		}
		for i := range 2 {
			r, err := log.Append(ctx, "room:lobby", history.Record{
				Event: "new_msg", Payload: serializer.Value(map[string]string{"body": text}),
			}, history.Keep{})
			if err != nil {
				fmt.Println(err)
			}
			if i == 0 {
				last = r.Position // the client receives one of the two
			}
		}
		stop()
		fmt.Println(<-done, engine.Close())
	}
	// Output:
	// <nil> <nil>
	// missed after the restart: 1 <nil>
	// <nil> <nil>
}

// A push that was handled before a restart is not handled again: OnceConfig.Store is this store.
func ExampleEngine_Once() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	for range 2 {
		engine, err := boltengine.New(boltengine.Config{Path: filepath.Join(dir, "once.db")})
		if err != nil {
			fmt.Println(err)
			return
		}
		store := engine.Once()
		mine, reply, err := store.Begin(ctx, "ann.room.1", "node 1", 30*time.Second)
		fmt.Println(mine, string(reply), err)
		if mine {
			_, err = store.Finish(ctx, "ann.room.1", "node 1", []byte("stored"), 48*time.Hour)
			fmt.Println(err)
		}
		fmt.Println(engine.Close())
	}
	// Output:
	// true  <nil>
	// <nil>
	// <nil>
	// false stored <nil>
	// <nil>
}

// A shared object survives a restart.
func ExampleEngine_State() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	for range 2 {
		engine, err := boltengine.New(boltengine.Config{Path: filepath.Join(dir, "objects.db")})
		if err != nil {
			fmt.Println(err)
			return
		}
		objects := state.New(engine.State())
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- objects.Run(ctx) }()
		_, err = state.Update(ctx, objects, "counter", "", func(n *int) error {
			*n++
			fmt.Println(*n)
			return nil
		})
		stop()
		fmt.Println(err, <-done, engine.Close())
	}
	// Output:
	// 1
	// <nil> <nil> <nil>
	// 2
	// <nil> <nil> <nil>
}

// A second use of the file fails at once.
func ExampleNew() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	logger := zerolog.Nop()
	cfg := boltengine.Config{Path: filepath.Join(dir, "history.db"), Logger: &logger}
	engine, err := boltengine.New(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer engine.Close()
	_, err = boltengine.New(cfg)
	fmt.Println(err != nil)
	// Output: true
}

// A client keeps what it must not forget in a file of its own.
func ExampleOpenClient() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	for run := range 2 { // the second run is after a restart
		store, err := boltengine.OpenClient(filepath.Join(dir, "client.db"))
		if err != nil {
			fmt.Println(err)
			return
		}
		if run == 0 {
			err = store.Apply(context.Background(), "ada", []offline.Op{{Put: &offline.Entry{
				Seq: 1, ID: "0193a", Topic: "room:1", Event: "msg", Payload: []byte(`{"body":"hi"}`),
			}}})
		} else {
			err = store.Load(context.Background(), "ada", func(e offline.Entry, _ *offline.Mirror) error {
				fmt.Printf("%s %s %s\n", e.Topic, e.Event, e.Payload)
				return nil
			})
		}
		if err := errors.Join(err, store.Close()); err != nil {
			fmt.Println(err)
		}
	}
	// Output: room:1 msg {"body":"hi"}
}
