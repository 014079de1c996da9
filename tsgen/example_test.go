package tsgen_test

import (
	"context"
	"fmt"
	"strings"

	"bennu.example/channel"
	"bennu.example/tsgen"
)

type note struct {
	Text string `json:"text"`
}

const noted channel.Event[note] = "noted"

func notes() channel.Routes {
	type state struct{}
	join := func(*state, context.Context, *channel.Channel, struct{}) ([]note, error) { return nil, nil }
	add := func(_ *state, _ context.Context, c *channel.Channel, n note) (int, error) {
		return 1, noted.Broadcast(c, n)
	}
	return channel.Routes{"notes:*": channel.Define(join, channel.On("add", add), channel.Sends[state](noted))}
}

func ExampleGenerate() {
	types, _, err := tsgen.Generate(notes())
	if err != nil {
		fmt.Println(err)
	}
	_, topic, _ := strings.Cut(string(types), "/** The topics \"")
	fmt.Print(topic)
	// Output:
	// notes:*". */
	// export interface NotesTopic {
	//   params: {};
	//   reply: Note[] | null;
	//   pushes: {
	//     add: { payload: Note; reply: number };
	//   };
	//   events: {
	//     noted: Note;
	//   };
	// }
	//
	// export interface Note {
	//   text: string;
	// }
}

// A program of its own writes the types: go run ./internal/gen -o page/channels
func ExampleMain() {
	main := func() { tsgen.Main(notes()) }
	_ = main
}
