// A page opened from the disk may start no search: browsers allow it no worker. It then shows no box for one.
if (location.protocol === "file:") document.documentElement.classList.add("from-disk");
