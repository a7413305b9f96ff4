/** Entry of the page: mounts the application and opens the feed from the node. */
import { mount } from 'svelte';
import App from './App.svelte';
import './app.css';
import { feed } from './lib/feed.svelte';
import { live } from './lib/live.svelte';

const target = document.getElementById('app');
if (target) {
  mount(App, { target });
  feed.open();
  live.open();
}
