// Command typed serves a poll whose page is checked against the types of the Go code. In the
// directory of this file:
//
//	go generate                 # writes page/channels.mjs and page/channels.d.mts
//	npx -p typescript tsc -p page   # fails if page/page.mjs does not fit them
//	go run .
package main

import (
	"embed"
	"io/fs"
	"log"
	"net/http"

	"bennu.example/examples/typed/poll"
	"bennu.example/js"
	"bennu.example/socket"
)

//go:generate go run ./gen -o page/channels

//go:embed page/*.html page/*.mjs
var files embed.FS

func main() {
	handler, err := serve(poll.New("Tea or coffee?", "tea", "coffee"))
	if err != nil {
		log.Fatal(err)
	}
	log.Print("open http://127.0.0.1:4000")
	log.Fatal(http.ListenAndServe("127.0.0.1:4000", handler))
}

// serve returns a handler of the page and its channels.
func serve(p *poll.Poll) (http.Handler, error) {
	page, err := fs.Sub(files, "page")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServerFS(page))
	mux.Handle("/js/", js.Handler())
	mux.Handle("/socket/", socket.NewHandler(socket.Config{Channels: p.Routes()}))
	return mux, nil
}
