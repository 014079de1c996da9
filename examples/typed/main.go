// Command typed serves a poll whose page is checked against the types of the Go code. In the
// directory of this file:
//
//	go generate                 # writes page/channels.mjs and page/channels.d.mts
//	npx -p typescript tsc -p page   # fails if page/page.mjs does not fit them
//	go run .                    # -addr chooses another address than 127.0.0.1:4000
package main

import (
	"embed"
	"flag"
	"io/fs"
	"log"
	"net"
	"net/http"
	"time"

	"bennu.example/examples/typed/poll"
	"bennu.example/js"
	"bennu.example/socket"
)

//go:generate go run ./gen -o page/channels

//go:embed page/*.html page/*.mjs
var files embed.FS

func main() {
	addr := flag.String("addr", "127.0.0.1:4000", "address to listen on")
	flag.Parse()
	handler, err := serve(poll.New("Tea or coffee?", "tea", "coffee"))
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatalf("%v (-addr chooses another address)", err)
	}
	log.Printf("open http://%s", listener.Addr())
	log.Fatal((&http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}).Serve(listener))
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
