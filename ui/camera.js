"use strict";

// A picture taken with the camera goes the way of a file.

const live = element("live");
let starting = false;

async function startCamera() {
  if (starting) return; // two would run where one is stopped
  starting = true;
  try {
    live.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
    await live.play();
    element("finder").hidden = false;
    element("shoot").focus();
  } catch ({ name }) {
    stopCamera();
    if (name !== "AbortError") fail("There is no camera, or the browser may not use it."); // as an image was chosen
  }
  starting = false;
}

function stopCamera() {
  for (const track of live.srcObject?.getTracks() ?? []) track.stop();
  live.srcObject = null;
  element("finder").hidden = true;
}

function takePicture() {
  const canvas = document.createElement("canvas");
  canvas.width = live.videoWidth;
  canvas.height = live.videoHeight;
  canvas.getContext("2d").drawImage(live, 0, 0);
  leaveCamera();
  canvas.toBlob((blob) => take([new File([blob], "camera.jpg", { type: "image/jpeg" })]), "image/jpeg");
}

function leaveCamera() {
  stopCamera();
  element("camera").focus();
}

element("camera").hidden = !navigator.mediaDevices; // there are none in an insecure context
element("camera").addEventListener("click", startCamera);
element("shoot").addEventListener("click", takePicture);
element("cancel").addEventListener("click", leaveCamera);
