// Drives a network list as container runtimes do, by their own library: libcni, with its cache.
//
//	CNI_PATH=DIRS CNI_CACHE=DIR libcni add|check|del CONFLIST CONTAINER NETNS IFNAME
//
// The result of ADD goes to stdout. What fails is told on stderr, an error of a plugin as its JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
)

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "libcni add|check|del CONFLIST CONTAINER NETNS IFNAME")
		os.Exit(2)
	}
	if err := drive(os.Args[1], os.Args[2]); err != nil {
		text, _ := json.Marshal(err)
		fmt.Fprintf(os.Stderr, "%v\n%s\n", err, text)
		os.Exit(1)
	}
}

func drive(verb, file string) error {
	list, err := libcni.ConfListFromFile(file)
	if err != nil {
		return err
	}
	dirs := filepath.SplitList(os.Getenv("CNI_PATH"))
	cni := libcni.NewCNIConfigWithCacheDir(dirs, os.Getenv("CNI_CACHE"), nil)
	attachment := &libcni.RuntimeConf{
		ContainerID: os.Args[3],
		NetNS:       os.Args[4],
		IfName:      os.Args[5],
	}
	ctx := context.Background()
	switch verb {
	case "add":
		result, err := cni.AddNetworkList(ctx, list, attachment)
		if err != nil {
			return err
		}
		return result.Print()
	case "check":
		return cni.CheckNetworkList(ctx, list, attachment)
	case "del":
		return cni.DelNetworkList(ctx, list, attachment)
	}
	return fmt.Errorf("no verb %q", verb)
}
